package neighbours_test

var harmless = []policy{
	{name: "nothing", rules: ``},
	{name: "ufw with its defaults", rules: `
		iptables -N ufw-before-input
		iptables -N ufw-before-output
		iptables -A INPUT -j ufw-before-input
		iptables -A OUTPUT -j ufw-before-output
		iptables -A ufw-before-input -i lo -j ACCEPT
		iptables -A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
		iptables -A ufw-before-input -m conntrack --ctstate INVALID -j DROP
		iptables -A ufw-before-input -p udp --sport 67 --dport 68 -j ACCEPT
		iptables -A ufw-before-output -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
		iptables -A ufw-before-output -j ACCEPT
		iptables -P INPUT DROP
		iptables -P FORWARD DROP`},
	{name: "dormant tables", rules: `
		table inet asleep { flags dormant;
		chain out { type filter hook output priority filter; policy drop; } }`},
	{name: "our own table", rules: `
		table inet cfwall { chain out { type filter hook output priority filter; policy accept; th dport 7845 drop; } }`},
	{name: "input drop with answers", rules: `
		table inet a { chain in { type filter hook input priority filter; policy drop; ct state vmap { established : accept, related : accept, invalid : drop }; iifname lo accept; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; tcp dport 22 accept; } }`},
	{name: "firewalld's reverse path filter", rules: `
		table inet firewalld { chain pre { type filter hook prerouting priority -290; policy accept; icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept; meta nfproto ipv6 fib saddr . mark . iif oif missing drop; }
		chain in { type filter hook input priority 10; policy accept; ct state { established, related } accept; ct status dnat accept; iifname "lo" accept; ct state invalid drop; meta nfproto ipv4 reject with icmp admin-prohibited; } }`},
	{name: "output drop with the tunnel let out", rules: `
		table inet a { chain out { type filter hook output priority filter; policy drop; ct state established accept; meta l4proto { tcp, udp } th dport { 53, 7844 } accept; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; } }`},
	{name: "output drop for another user", rules: `
		table inet a { chain out { ` + filterOutput + `meta skuid 1000-2000 drop; meta skgid != 0 drop; } }`},
	{name: "iptables owner of another", rules: `
		iptables -A OUTPUT -m owner --uid-owner 33 -j REJECT
		iptables -A OUTPUT -m owner ! --uid-owner 0 -j DROP`},
	{name: "another device's hooks", rules: `
		table netdev a { chain out { type filter hook egress device "docker0" priority 0; policy drop; }
		chain in { type filter hook ingress device "docker0" priority 0; policy drop; } }`},
	{name: "another interface", rules: `
		table inet a { chain post { type filter hook postrouting priority filter; oifname "wg0" drop; oifname "eth1*" drop; iifname "eth0" drop; } }`},
	{name: "the other way", rules: `
		table inet a { chain in { type filter hook input priority filter; th dport 7844 drop; }
		chain out { ` + filterOutput + `tcp sport 7844 drop; udp sport 7844 drop; } }`},
	{name: "ports beside it", rules: `
		table inet a { chain out { ` + filterOutput + `udp dport 7845-65535 drop; tcp dport < 53 drop; th dport { 54-7843 } drop; } }`},
	{name: "networks beside it", rules: `
		table inet a { set bad { type ipv4_addr; flags interval; elements = { 198.41.0.0/17, 198.41.193.0/24, 198.41.192.0/29 } }
		set bad6 { type ipv6_addr; flags interval; elements = { 2606:4700:a1::/48, 2606:4700:a0::2-2606:4700:a0::ffff } }
		chain out { ` + filterOutput + `ip daddr 198.41.192.8/29 drop; ip6 daddr @bad6 drop; } }`},
	{name: "an empty blocklist", rules: `
		table inet a { set bad { type ipv4_addr; flags interval; }
		chain pre { type filter hook prerouting priority raw; ip saddr @bad drop; }
		chain out { ` + filterOutput + `ip daddr @bad drop; } }`},
	{name: "fail2ban", rules: `
		table inet f2b-table { set addr-set-sshd { type ipv4_addr; elements = { 203.0.113.9, 198.51.100.1 } }
		chain f2b-chain { type filter hook input priority filter - 1; policy accept; tcp dport 22 ip saddr @addr-set-sshd reject with icmp port-unreachable; } }`},
	{name: "forward drop on a host that is no router for the tunnel", rules: `
		table inet a { chain through { type filter hook forward priority filter; policy drop; } }`},
	{name: "docker", which: "container", rules: `
		iptables -N DOCKER-USER
		iptables -N DOCKER-ISOLATION-STAGE-1
		iptables -N DOCKER-ISOLATION-STAGE-2
		iptables -t nat -N DOCKER
		iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
		iptables -t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
		iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
		iptables -t nat -A DOCKER -i docker0 -j RETURN
		iptables -t nat -A DOCKER ! -i docker0 -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
		iptables -A FORWARD -j DOCKER-USER
		iptables -A FORWARD -j DOCKER-ISOLATION-STAGE-1
		iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
		iptables -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
		iptables -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
		iptables -A DOCKER-ISOLATION-STAGE-1 -j RETURN
		iptables -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
		iptables -A DOCKER-ISOLATION-STAGE-2 -j RETURN
		iptables -A DOCKER-USER -j RETURN
		iptables -P FORWARD DROP`},
	{name: "strict forwarding with masquerade", which: "container", rules: `
		table ip nat { chain post { type nat hook postrouting priority 100; oifname eth0 masquerade; } }
		table inet a { chain through { type filter hook forward priority filter; policy drop; ct state established,related accept; iifname docker0 oifname eth0 accept; }
		chain out { ` + filterOutput + `th dport 7844 drop; }
		chain in { type filter hook input priority filter; policy drop; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; } }`},
	{name: "user rules do not apply to what is forwarded", which: "container", rules: `
		table inet a { chain post { type filter hook postrouting priority filter; meta skuid 0 drop; meta skuid != 5 drop; } }`},
	{name: "iptables owner and what is forwarded", which: "container", rules: `
		iptables -t mangle -A POSTROUTING -m owner --uid-owner 0 -j DROP`},
	{name: "accept and return before the drop", rules: `
		table inet a { chain tunnel { th dport 7844 accept; }
		chain dns { th dport != 53 return; accept; }
		chain out { type filter hook output priority filter; policy drop; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; ct state established accept; jump tunnel; goto dns; } }`},
	{name: "map of verdicts", rules: `
		table inet a { chain out { ` + filterOutput + `meta l4proto . th dport vmap { tcp . 25 : drop, udp . 7845 : drop }; ip daddr vmap { 10.0.0.0/8 : drop, 198.41.192.0/24 : accept }; ct state vmap { invalid : drop }; } }`},
	{name: "concatenated set", rules: `
		table inet a { set bad { type ipv4_addr . inet_service; flags interval; elements = { 198.41.192.0/24 . 443, 198.41.193.0/24 . 7000-8000 } }
		chain out { ` + filterOutput + `ip daddr . tcp dport @bad drop; } }`},
	{name: "other marks", rules: `
		table inet a { chain out { type route hook output priority mangle; tcp dport 25 meta mark set 1; ct mark set mark; }
		chain post { type filter hook postrouting priority 0; meta mark 1 drop; meta mark and 0xf0 != 0 drop; ct mark 1 drop; } }`},
	{name: "a mark that is taken back", rules: `
		table inet a { chain out { type filter hook output priority mangle; meta mark set 0x10; meta mark set meta mark and 0xffffff0f; }
		chain post { type filter hook postrouting priority 0; meta mark 0x10 drop; meta mark set meta mark or 0x3; meta mark != 3 drop; } }`},
	{name: "iptables marks", rules: `
		iptables -t mangle -A OUTPUT -p tcp --dport 25 -j MARK --set-mark 4
		iptables -t mangle -A OUTPUT -j CONNMARK --save-mark
		iptables -t mangle -A OUTPUT -j CONNMARK --restore-mark
		iptables -A OUTPUT -m mark --mark 4 -j DROP
		iptables -A OUTPUT -m connmark --mark 4 -j DROP`},
	{name: "a nat chain without tracking", where: "whether this host tracks connections", rules: `
		table ip a { chain out { type nat hook output priority -100; ip daddr 198.41.0.0/16 drop; } }`},
	{name: "a limit lets it pass", rules: `
		table inet a { chain out { type filter hook output priority filter; policy drop; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; limit rate 100000/second accept; } }`},
	{name: "a limit that is not reached", rules: `
		table inet a { chain out { ` + filterOutput + `limit rate over 100000/second drop; udp dport 7844 meter m { ip daddr limit rate over 90000/second } drop; } }`,
		where: "what runs for each element of set m"},
	{name: "iptables limits and logs", rules: `
		iptables -A OUTPUT -m limit --limit 3/min -j LOG --log-prefix x
		iptables -A OUTPUT -p tcp --syn -m connlimit --connlimit-above 10000 -j REJECT`},
	{name: "a quota that is left", rules: `
		table inet a { chain out { ` + filterOutput + `quota over 10000 mbytes drop; } }`},
	{name: "connection limit", rules: `
		table inet a { chain out { ` + filterOutput + `ct state new ct count over 100000 drop; } }`},
	{name: "invalid flows", rules: `
		table inet a { chain in { type filter hook input priority filter; ct state invalid drop; }
		chain out { ` + filterOutput + `ct state invalid,untracked drop; } }`},
	{name: "bad TCP flags", rules: `
		table inet a { chain pre { type filter hook prerouting priority mangle; tcp flags & (fin | syn) == (fin | syn) drop; tcp flags & (syn | rst) == (syn | rst) drop; tcp flags & (fin | syn | rst | psh | ack | urg) == 0 drop; tcp flags & (fin | syn | rst | ack) == syn drop; } }`},
	{name: "spoofed sources and martians", rules: `
		table ip a { chain pre { type filter hook prerouting priority raw; fib saddr type local drop; fib saddr . iif oif missing drop; iifname eth0 ip saddr { 10.0.0.0/8, 127.0.0.0/8 } drop; fib daddr type != { local, broadcast, multicast } drop; } }`},
	{name: "fragments, options and small MSS", rules: `
		table inet a { chain pre { type filter hook prerouting priority -450; ip frag-off & 0x1fff != 0 drop; exthdr frag exists drop; exthdr rt exists drop; ip option lsrr exists drop; }
		chain post { type filter hook postrouting priority mangle; tcp flags syn tcp option maxseg size set rt mtu; } }`},
	{name: "MSS that depends", where: "options of the packet", rules: `
		table inet a { chain pre { type filter hook output priority filter; tcp flags syn tcp option maxseg size 1-500 drop; } }`},
	{name: "time of day", where: "the time", rules: `
		table inet a { chain out { ` + filterOutput + `meta time < "2001-01-01 00:00:00" drop; } }`},
	{name: "iptables string", where: "the iptables match string", rules: `
		iptables -A OUTPUT -m string --string BitTorrent --algo bm -j DROP`},
	{name: "iptables statistic with rules that go on", rules: `
		iptables -t mangle -A OUTPUT -m statistic --mode random --probability 0.5 -j DSCP --set-dscp 8`},
	{name: "masquerade of one's own", rules: `
		table ip nat { chain post { type nat hook postrouting priority srcnat; oifname "eth0" masquerade; } }
		table ip a { chain in { type filter hook input priority filter; policy drop; ct state established accept; iif lo accept; } }`},
	{name: "redirect of what comes in", rules: `
		table inet a { chain pre { type nat hook prerouting priority dstnat; tcp dport 7844 redirect to :9; tcp sport 7844 drop; } }`},
	{name: "notrack on both sides", rules: `
		table inet a { chain out { type filter hook output priority raw; notrack; }
		chain pre { type filter hook prerouting priority raw; notrack; }
		chain in { type filter hook input priority filter; ct state invalid drop; ct state new drop; } }`},
	{name: "random ports of a service", which: "stub", rules: `
		table inet a { chain in { type filter hook input priority filter; policy drop; ct state established accept; iif lo accept; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; }
		chain out { ` + filterOutput + `udp dport 53 oifname eth0 drop; } }`},
	{name: "ephemeral ports are let in", rules: `
		table inet a { chain in { type filter hook input priority filter; policy drop; th dport 1024-65535 accept; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; } }`},
	{name: "ephemeral ports as Linux has them are let in", rules: `
		table inet a { chain in { type filter hook input priority filter; policy drop; th dport 32768-60999 accept; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; } }`},
	{name: "load balancing", where: "depends on", rules: `
		table inet a { chain one { counter; } 
		chain out { ` + filterOutput + `numgen random mod 2 vmap { 0 : jump one, 1 : goto one }; } }`},
	{name: "bridge and arp tables", rules: `
		table bridge a { chain through { type filter hook forward priority 0; policy drop; } }
		table arp a { chain in { type filter hook input priority 0; policy accept; arp operation 3 drop; } }`},
}
