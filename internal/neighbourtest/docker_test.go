package neighbourtest

import (
	"fmt"

	"github.com/cfwall/cfwall/internal/lab"
)

// publish makes a container whose port 80 Docker's rules publish as port 8080:
// IPv4 by DNAT, and IPv6 by a proxy that listens on the host.
func publish(m *machine) {
	container := (&lab.Site{Net: m.net, Client: m.client, Web: m.web}).Container()
	container.ListenTCP(":80")
	m.web.ListenTCP("[::]:8080")
}

// The rules of Docker Engine 28 for one container on the default bridge, whose
// port 80 is published as 8080.
const iptablesRules = `*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-BRIDGE - [0:0]
:DOCKER-CT - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
COMMIT
`

// dockerWithIptables is what Docker makes by the iptables program.
func dockerWithIptables() neighbour {
	load := func(m *machine) { m.load(iptablesRules, "iptables-restore") }
	published := []string{"DOCKER", "!", "-i", "docker0", "-p", "tcp", "--dport", "8080", "-j", "DNAT", "--to-destination", "172.17.0.2:80"}
	return neighbour{name: "docker with iptables", port: 8080, setup: publish, start: load,
		life: []step{
			{"docker stop and start of the container", func(m *machine) {
				m.run("iptables", append([]string{"-t", "nat", "-D"}, published...)...)
				m.run("iptables", append([]string{"-t", "nat", "-A"}, published...)...)
			}},
			{"systemctl restart docker", load},
			{"iptables -F, -X, and systemctl restart docker", func(m *machine) {
				for _, table := range []string{"raw", "nat", "filter"} {
					m.run("iptables", "-t", table, "-F")
					m.run("iptables", "-t", table, "-X")
				}
				load(m)
			}},
		}}
}

// The tables of Docker Engine 29 with its nftables backend for the same.
const nftablesRules = `
table ip docker-bridges {
	map filter-forward-in-jumps {
		type ifname : verdict
		elements = { "docker0" : jump filter-forward-in__docker0 }
	}
	map filter-forward-out-jumps {
		type ifname : verdict
		elements = { "docker0" : jump filter-forward-out__docker0 }
	}
	chain filter-forward-in__docker0 {
		ct state established,related counter accept
		iifname "docker0" counter accept comment "ICC"
		ip daddr 172.17.0.2 tcp dport 80 counter accept
		counter drop comment "UNPUBLISHED PORT DROP"
	}
	chain filter-forward-out__docker0 {
		ct state established,related counter accept
		counter accept comment "OUTGOING"
	}
	chain filter-FORWARD {
		type filter hook forward priority filter; policy accept;
		oifname vmap @filter-forward-in-jumps
		iifname vmap @filter-forward-out-jumps
	}
	chain nat-prerouting-and-output {
		iifname != "docker0" tcp dport 8080 counter dnat to 172.17.0.2:80 comment "DNAT"
	}
	chain nat-PREROUTING {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local counter jump nat-prerouting-and-output
	}
	chain nat-OUTPUT {
		type nat hook output priority -100; policy accept;
		ip daddr != 127.0.0.0/8 fib daddr type local counter jump nat-prerouting-and-output
	}
	chain nat-POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
		oifname != "docker0" ip saddr 172.17.0.0/16 counter masquerade comment "MASQUERADE"
	}
	chain raw-PREROUTING {
		type filter hook prerouting priority raw; policy accept;
		ip daddr 172.17.0.2 iifname != "docker0" counter drop comment "DROP DIRECT ACCESS"
	}
}
table ip6 docker-bridges {
	chain filter-FORWARD {
		type filter hook forward priority filter; policy accept;
	}
}
`

// dockerWithNftables is what Docker makes by nftables.
func dockerWithNftables() neighbour {
	load := func(m *machine) {
		const anew = "table ip docker-bridges\ndelete table ip docker-bridges\ntable ip6 docker-bridges\ndelete table ip6 docker-bridges\n"
		m.load(anew+nftablesRules, "nft", "-f", "-")
	}
	const chain = "chain ip docker-bridges nat-prerouting-and-output"
	return neighbour{name: "docker with nftables", port: 8080, setup: publish, start: load,
		life: []step{
			{"docker stop and start of the container", func(m *machine) {
				m.run("nft", "flush", chain)
				m.load(fmt.Sprintf("add rule %s iifname != docker0 tcp dport 8080 counter dnat to 172.17.0.2:80\n", chain[len("chain "):]), "nft", "-f", "-")
			}},
			{"systemctl restart docker", load},
		}}
}
