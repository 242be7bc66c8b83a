package neighbours_test

const filterOutput = "type filter hook output priority filter; policy accept; "

var breaking = []policy{
	{name: "ufw denies what goes out", where: "table ip filter, chain OUTPUT (policy drop) drops", cure: "ufw allow out 7844", rules: `
		iptables -N ufw-before-output
		iptables -A OUTPUT -j ufw-before-output
		iptables -A ufw-before-output -o lo -j ACCEPT
		iptables -A ufw-before-output -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
		iptables -A ufw-before-output -p udp --dport 53 -j ACCEPT
		iptables -P OUTPUT DROP`},
	{name: "ufw rejects a port", where: "table ip filter, chain ufw-user-output, rule handle ", cure: "ufw allow out 7844", rules: `
		iptables -N ufw-before-output
		iptables -N ufw-user-output
		iptables -A OUTPUT -j ufw-before-output
		iptables -A ufw-before-output -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
		iptables -A ufw-before-output -j ufw-user-output
		iptables -A ufw-user-output -p tcp --dport 7844 -j REJECT --reject-with tcp-reset
		iptables -A ufw-user-output -p udp --dport 7844 -j REJECT --reject-with icmp-port-unreachable`},
	{name: "policy drop in output", where: "table inet strict, chain out (policy drop) drops udp port 7844 to 198.41.192.7, udp port 7844 to 2606", cure: "nft -a list chain inet strict out", rules: `
		table inet strict { chain out { type filter hook output priority filter; policy drop; } }`},
	{name: "policy drop in output but for DNS and web", where: "table inet strict, chain out (policy drop)", cure: "let it accept tcp and udp port 7844", rules: `
		table inet strict { chain out { type filter hook output priority filter; policy drop; oifname lo accept; ct state established,related accept; meta l4proto { tcp, udp } th dport { 53, 80, 443 } accept; } }`},
	{name: "policy drop in postrouting", where: "table ip strict, chain post (policy drop)", rules: `
		table ip strict { chain post { type filter hook postrouting priority 300; policy drop; oifname "wg0" accept; } }`},
	{name: "policy drop in input, answers too", where: "table inet strict, chain in (policy drop) drops the answers to", cure: "ct state established", rules: `
		table inet strict { chain in { type filter hook input priority filter; policy drop; iifname lo accept; tcp dport 22 accept; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept; } }`},
	{name: "policy drop in prerouting, answers too", where: "table ip strict, chain pre (policy drop) drops the answers", rules: `
		table ip strict { chain pre { type filter hook prerouting priority mangle; policy drop; tcp dport { 22, 80 } accept; icmp type echo-request accept; } }`},
	{name: "stateless raw drop by source port", where: `chain pre, rule handle `, rules: `
		table ip raw2 { chain pre { type filter hook prerouting priority raw; ct state invalid udp sport 7844 drop; } }`},
	{name: "a mark is set in one chain and dropped in another", where: `table inet b, chain post, rule handle 2 ("marked") drops udp port 7844 to 198.41`, rules: `
		table inet a { chain out { type route hook output priority mangle; udp dport 7844 meta mark set 0x10; } }
		table inet b { chain post { type filter hook postrouting priority filter; meta mark and 0xff == 0x10 counter drop comment "marked"; } }`},
	{name: "a mark of the flow", where: "table inet a, chain in, rule handle", rules: `
		table inet a { chain out { type filter hook output priority mangle; ct state new tcp dport 7844 ct mark set 7; }
		chain in { type filter hook input priority filter; ct mark 7 drop; } }`},
	{name: "a rule for the user", where: "chain out, rule handle 3 rejects udp port 7844", rules: `
		table inet a { chain out { ` + filterOutput + `meta skuid 0 meta l4proto { tcp, udp } reject; } }`},
	{name: "a rule for all users but one", where: "chain out, rule handle", rules: `
		table inet a { chain out { ` + filterOutput + `oifname "eth0" meta skuid != 1234 th dport 7844 drop; } }`},
	{name: "a rule for the group", where: "chain out, rule handle", rules: `
		table inet a { chain out { ` + filterOutput + `meta skgid 0-5 udp dport 7844 drop; } }`},
	{name: "iptables owner", where: "table ip filter, chain OUTPUT, rule handle", cure: "iptables -t filter -S OUTPUT", rules: `
		iptables -A OUTPUT -m owner --uid-owner 0-99 -p udp -m multiport --dports 5000:6000,7844 -j DROP`},
	{name: "iptables owner of all but a group", where: "table ip6 filter, chain OUTPUT, rule handle", cure: "ip6tables -t filter -S OUTPUT", rules: `
		ip6tables -A OUTPUT -m owner ! --gid-owner 77 -m comment --comment sandbox -p tcp --dport 7000:8000 -j REJECT`},
	{name: "iptables conntrack new", where: "chain OUTPUT, rule handle", rules: `
		iptables -A OUTPUT -m conntrack --ctstate NEW,INVALID -m addrtype ! --dst-type LOCAL -j DROP`},
	{name: "iptables state and mark", where: "table ip filter, chain OUTPUT, rule handle", rules: `
		iptables -t mangle -A OUTPUT -p tcp -m tcp --dport 7844 -j MARK --set-xmark 0x4/0x4
		iptables -A OUTPUT -m state --state NEW -m mark --mark 0x4/0xf -j DROP`},
	{name: "iptables input without answers", where: "table ip filter, chain INPUT (policy drop) drops the answers", cure: "iptables -t filter -S INPUT", rules: `
		iptables -A INPUT -i lo -j ACCEPT
		iptables -A INPUT -p tcp --dport 22 -j ACCEPT
		iptables -P INPUT DROP`},
	{name: "iptables raw notrack and answers by state", where: "table ip filter, chain INPUT, rule handle", rules: `
		iptables -t raw -A OUTPUT -p udp --dport 7844 -j CT --notrack
		iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
		iptables -A INPUT -i eth0 -j DROP`},
	{name: "iptables address range", where: "chain OUTPUT, rule handle", rules: `
		iptables -A OUTPUT -m iprange --dst-range 198.41.192.1-198.41.192.200 -j DROP`},
	{name: "iptables jump, return and goto", where: "table ip filter, chain LOCKED, rule handle", cure: "iptables -t filter -S LOCKED", rules: `
		iptables -N GUARD
		iptables -N LOCKED
		iptables -A OUTPUT -j GUARD
		iptables -A GUARD -p udp --dport 53 -j RETURN
		iptables -A GUARD -p tcp --dport 53 -j RETURN
		iptables -A GUARD -g LOCKED
		iptables -A LOCKED -p tcp --syn -j DROP
		iptables -A LOCKED -p udp -j DROP`},
	{name: "map of verdicts by protocol and port", where: "table inet a, chain refused, rule handle", rules: `
		table inet a { chain refused { counter drop; }
		chain out { ` + filterOutput + `meta l4proto . th dport vmap { tcp . 443 : accept, udp . 7844 : jump refused, tcp . 7844 : drop } } }`},
	{name: "map of verdicts with intervals", where: "table inet a, chain out, rule handle", rules: `
		table inet a { chain out { ` + filterOutput + `ip daddr vmap { 10.0.0.0/8 : accept, 198.41.0.0/16 : drop, 224.0.0.0/4 : accept } } }`},
	{name: "named interval set", where: `rule handle 3 ("blocklist")`, rules: `
		table inet a { set bad { type ipv6_addr; flags interval; elements = { 2606:4700::/32, 2001:db8:ff::/48 } }
		chain out { ` + filterOutput + `ip6 daddr @bad drop comment "blocklist"; } }`},
	{name: "not in a set", where: "chain out, rule handle", rules: `
		table inet a { set good { type ipv4_addr; flags interval; auto-merge; elements = { 10.0.0.0/8, 192.0.2.0/24, 198.51.100.0-198.51.100.9 } }
		chain out { ` + filterOutput + `ip daddr != @good reject with icmp admin-prohibited; } }`},
	{name: "concatenated set with intervals", where: "chain out, rule handle", rules: `
		table inet a { set bad { type ipv4_addr . inet_proto . inet_service; flags interval; elements = { 198.41.192.0/24 . tcp . 7000-8000, 198.41.200.0/24 . udp . 1-65535 } }
		chain out { ` + filterOutput + `ip daddr . meta l4proto . th dport @bad drop; } }`},
	{name: "range of ports", where: "chain out, rule handle", rules: `
		table inet a { chain out { ` + filterOutput + `udp dport 1024-65535 drop; tcp dport >= 1024 drop; } }`},
	{name: "all but a range", where: "chain out, rule handle", rules: `
		table inet a { chain out { ` + filterOutput + `tcp dport != 1-1023 reject with tcp reset; } }`},
	{name: "TCP flags", where: "chain out, rule handle", rules: `
		table inet a { chain out { ` + filterOutput + `tcp dport 7844 tcp flags & (fin | syn | rst | ack) == syn drop; } }`},
	{name: "answers by TCP flags", where: "drops the answers to tcp port 7844", rules: `
		table inet a { chain in { type filter hook input priority filter; tcp flags & ack == ack tcp sport 7844 drop; } }`},
	{name: "nat redirects to nobody", where: "diverts tcp port 7844", cure: "exempt tcp and udp port 7844", rules: `
		table ip a { chain out { type nat hook output priority -100; tcp dport 7844 redirect to :9; } }`},
	{name: "nat sends it elsewhere", where: "diverts udp port 7844", rules: `
		table inet a { chain out { type nat hook output priority -100; udp dport 7844 dnat ip to 198.41.192.99:7845; } }`},
	{name: "nat chain drops", where: "table ip a, chain out, rule handle", rules: `
		table ip a { chain out { type nat hook output priority -100; ct state new ip daddr 198.41.0.0/16 drop; } }`},
	{name: "netdev egress", where: "table netdev a, chain out, rule handle", rules: `
		table netdev a { chain out { type filter hook egress device "eth0" priority 0; policy accept; udp dport 7844 drop; } }`},
	{name: "netdev ingress", where: "table netdev a, chain in, rule handle 2 drops the answers to", rules: `
		table netdev a { chain in { type filter hook ingress device "eth0" priority 0; policy accept; ip protocol tcp tcp sport 7844 drop; } }`},
	{name: "inet ingress of two devices", where: "table inet a, chain in, rule handle", rules: `
		table inet a { chain in { type filter hook ingress devices = { eth0, docker0 } priority 0; policy accept; ip saddr 198.41.192.0/24 drop; } }`},
	{name: "new flows", where: "chain out, rule handle", rules: `
		table inet a { chain out { ` + filterOutput + `ct state vmap { established : accept, related : accept, new : drop }; } }`},
	{name: "invalid is everything in raw", where: "chain out, rule handle", rules: `
		table inet a { chain out { type filter hook output priority raw; ct state invalid udp dport 7844 drop; } }`},
	{name: "untracked is dropped", where: "table inet a, chain out, rule handle", rules: `
		table inet a { chain raw { type filter hook output priority raw; udp dport 7844 notrack; }
		chain out { ` + filterOutput + `ct state untracked drop; } }`},
	{name: "original direction", where: "chain out, rule handle", rules: `
		table inet a { chain out { ` + filterOutput + `ct direction original meta l4proto udp ct original proto-dst 7844 drop; } }`},
	{name: "a quota that is used up", where: "chain out, rule handle", rules: `
		table inet a { chain out { ` + filterOutput + `udp dport 7844 quota over 1000 bytes used 1000 bytes drop; } }`},
	{name: "type of address", where: "chain out, rule handle", rules: `
		table inet a { chain out { ` + filterOutput + `fib daddr type unicast th dport 7844 drop; } }`},
	{name: "source must have a way back by another link", where: "drops the answers to", rules: `
		table inet a { chain pre { type filter hook prerouting priority raw; iifname eth0 fib saddr . iif oif exists udp sport 7844 drop; } }`},
	{name: "by the interface's number", where: "table inet a, chain post, rule handle", rules: `
		table inet a { chain post { type filter hook postrouting priority 0; oif "eth0" th dport 7844 drop; } }`},
	{name: "by a wildcard of names", where: "table inet a, chain out, rule handle", rules: `
		table inet a { chain out { ` + filterOutput + `oifname "eth*" meta nfproto ipv6 udp dport 7844 drop; } }`},
	{name: "accept of an earlier chain ends only that", where: "table inet b, chain out (policy drop)", rules: `
		table inet a { chain out { type filter hook output priority -10; policy accept; th dport 7844 accept; } }
		table inet b { chain out { type filter hook output priority 10; policy drop; udp dport 53 accept; } }`},
	{name: "DNS alone", where: "drops udp port 53 to 192.0.2.1, tcp port 53", cure: "port 53", rules: `
		table ip a { chain out { ` + filterOutput + `meta l4proto { udp, tcp } th dport 53 drop; } }`},
	{name: "established flows end, too", where: "table inet a, chain out, rule handle", rules: `
		table inet a { chain out { ` + filterOutput + `tcp dport 7844 ct state established drop; } }`},
	{name: "a limit before the drop does not save more than it lets through", where: "table inet a, chain out, rule handle", rules: `
		table inet a { chain out { ` + filterOutput + `udp dport 7844 limit rate 1/day burst 5 packets log; udp dport 7844 drop; } }`},
	{name: "named map of marks", where: "table inet a, chain post, rule handle", rules: `
		table inet a { map marks { type inet_service : mark; elements = { 53 : 1, 7844 : 9 } }
		chain out { type filter hook output priority mangle; meta mark set udp dport map @marks; }
		chain post { type filter hook postrouting priority 0; meta mark 9 drop; } }`},
	{name: "own address", where: "table ip a, chain out, rule handle", rules: `
		table ip a { chain out { ` + filterOutput + `ip saddr 192.0.2.2 ip protocol udp ip daddr 198.41.192.7 drop; } }`},
	{name: "a set that the packet itself fills", where: "table inet a, chain out, rule handle", rules: `
		table inet a { set seen { type ipv4_addr; flags dynamic,timeout; timeout 1m; }
		chain out { ` + filterOutput + `udp dport 7844 add @seen { ip daddr }; udp dport 7844 drop; } }`},
	{name: "forwarding", where: "table inet a, chain through (policy drop)", which: "container", rules: `
		table inet a { chain through { type filter hook forward priority filter; policy drop; tcp dport { 80, 443 } accept; icmpv6 type { nd-neighbor-solicit } accept; } }`},
	{name: "forwarding, with DOCKER-USER", where: "table ip filter, chain DOCKER-USER, rule handle", cure: "iptables -t filter -S DOCKER-USER", which: "container", rules: `
		iptables -N DOCKER-USER
		iptables -A FORWARD -j DOCKER-USER
		iptables -A DOCKER-USER -i docker0 -o eth0 -p udp --dport 7844 -j DROP`},
	{name: "forwarding, answers", where: "table inet a, chain through, rule handle 4 drops the answers", which: "container", rules: `
		table inet a { chain through { type filter hook forward priority filter; iifname docker0 accept; iifname eth0 oifname docker0 tcp dport 80 accept; iifname eth0 drop; } }`},
	{name: "forwarding, prerouting from the bridge", where: "table inet a, chain pre, rule handle", which: "container", rules: `
		table inet a { chain pre { type filter hook prerouting priority mangle; iifname docker0 udp dport 7844 fib daddr type != local drop; } }`},
	{name: "stub resolver on lo", where: "drops udp port 53 to 127.0.0.53", which: "stub", rules: `
		table inet a { chain in { type filter hook input priority filter; iif lo udp dport 53 drop; } }`},
	{name: "stub resolver answers", where: "rejects the answers to tcp port 53 to 127.0.0.53", which: "stub", rules: `
		table ip a { chain out { ` + filterOutput + `oifname lo tcp sport 53 reject; } }`},
}
