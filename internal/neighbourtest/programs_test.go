package neighbourtest

import "os"

// does is a step that runs a program.
func does(name string, args ...string) step {
	what := name
	for _, a := range args {
		what += " " + a
	}
	return step{what, func(m *machine) { m.run(name, args...) }}
}

// ufw is the Uncomplicated Firewall, with SSH and the web ports open.
func ufw() neighbour {
	return neighbour{name: "ufw", port: 443,
		start: func(m *machine) {
			m.run("ufw", "allow", "22/tcp")
			m.run("ufw", "allow", "80,443/tcp")
			m.run("ufw", "--force", "enable")
		},
		life: []step{
			does("ufw", "reload"),
			does("ufw", "limit", "2222/tcp"),
			does("ufw", "disable"),
			does("ufw", "--force", "enable"),
			{"systemctl restart ufw", func(m *machine) { m.unit("ufw").restart() }},
			does("ufw", "--force", "reset"),
		}}
}

// busConfig lets everybody do everything: this bus is firewalld's alone.
const busConfig = `<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/></policy></busconfig>`

// firewalld has the web ports open in its default zone.
func firewalld() neighbour {
	var service *unit
	ready := func(m *machine) { m.await("firewall-cmd", "--state") }
	return neighbour{name: "firewalld", port: 443,
		start: func(m *machine) {
			m.check(os.MkdirAll("/run/dbus", 0o755))
			m.write("/run/bus.conf", busConfig)
			m.background("dbus-daemon", "--config-file=/run/bus.conf", "--nofork")
			service = m.unit("firewalld")
			service.start()
			ready(m)
			m.run("firewall-cmd", "--permanent", "--add-service=http", "--add-service=https")
			m.run("firewall-cmd", "--reload")
		},
		life: []step{
			does("firewall-cmd", "--reload"),
			does("firewall-cmd", "--complete-reload"),
			does("firewall-cmd", "--add-rich-rule=rule family=ipv4 source address=203.0.113.5 drop"),
			{"firewall-cmd --panic-on, --panic-off", func(m *machine) {
				m.run("firewall-cmd", "--panic-on")
				m.run("firewall-cmd", "--panic-off")
			}},
			{"systemctl reload firewalld", func(m *machine) { service.reload(); ready(m) }},
			{"systemctl restart firewalld", func(m *machine) { service.restart(); ready(m) }},
			{"systemctl stop firewalld", func(*machine) { service.stop() }},
		}}
}

// fail2ban guards SSH, with nftables.
func fail2ban() neighbour {
	var service *unit
	ready := func(m *machine) { m.await("fail2ban-client", "status", "sshd") }
	return neighbour{name: "fail2ban", port: 443,
		start: func(m *machine) {
			m.write("/etc/fail2ban/jail.local", "[DEFAULT]\nbanaction = nftables\nbackend = polling\n[sshd]\nenabled = true\n")
			m.write("/var/log/auth.log", "")
			m.check(os.MkdirAll("/run/fail2ban", 0o755))
			service = m.unit("fail2ban")
			service.start()
			ready(m)
			m.run("fail2ban-client", "set", "sshd", "banip", "203.0.113.66")
		},
		life: []step{
			does("fail2ban-client", "set", "sshd", "banip", "203.0.113.67"),
			does("fail2ban-client", "set", "sshd", "unbanip", "203.0.113.66"),
			{"systemctl reload fail2ban", func(m *machine) { service.reload(); ready(m) }},
			{"systemctl restart fail2ban", func(m *machine) { service.restart(); ready(m) }},
			{"systemctl stop fail2ban", func(*machine) { service.stop() }},
		}}
}

// nftablesService is Debian's: it flushes all tables of all programs.
func nftablesService() neighbour {
	return neighbour{name: "nftables.service", port: 443,
		start: func(m *machine) { m.unit("nftables").start() },
		life: []step{
			{"systemctl reload nftables", func(m *machine) { m.unit("nftables").reload() }},
			{"systemctl restart nftables", func(m *machine) { m.unit("nftables").restart() }},
			{"systemctl stop nftables", func(m *machine) { m.unit("nftables").stop() }},
			{"systemctl start nftables", func(m *machine) { m.unit("nftables").start() }},
			does("nft", "flush", "ruleset"),
		}}
}

// several are what many hosts have together.
func several() neighbour {
	all := []neighbour{ufw(), fail2ban(), dockerWithNftables()}
	n := neighbour{name: "several", port: 8080, setup: publish}
	n.start = func(m *machine) {
		for _, one := range all {
			one.start(m)
		}
		m.run("ufw", "allow", "8080/tcp")          // for IPv6, which comes to the proxy
		m.run("ufw", "default", "allow", "routed") // or it drops what Docker lets through
	}
	for _, one := range all {
		n.life = append(n.life, one.life[:2]...)
	}
	return n
}
