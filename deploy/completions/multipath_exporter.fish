complete -c multipath_exporter -l web.listen-address -d 'Address to serve on: [HOST]:PORT. Repeatable' -r
complete -c multipath_exporter -l web.config.file -d 'File of Prometheus\'s exporters (YAML) for TLS, basic authentication, rate limit and headers. Read again when it changes' -r -F
complete -c multipath_exporter -l web.telemetry-path -d 'Path of the metrics' -r
complete -c multipath_exporter -l web.max-requests -d 'Scrapes worked on at once, 503 beyond; 0 for no limit' -r
complete -c multipath_exporter -l web.address-share -d 'Part of each limit that one client address may take, in percent; 100 behind a proxy' -r
complete -c multipath_exporter -l web.allowed-host -d 'Name by which a browser may ask for the status page, the API and the runbooks, beside addresses, localhost and this host\'s node name. Repeatable; 421 for others' -r
complete -c multipath_exporter -l path.sysfs -d 'Where sysfs is mounted' -r -F
complete -c multipath_exporter -l path.procfs -d 'Where procfs is mounted' -r -F
complete -c multipath_exporter -l path.udev.data -d 'Where udev keeps its database' -r -F
complete -c multipath_exporter -l path.capture -d 'Run on the host that a capture was made of, from the directory where it was unpacked' -r -F
complete -c multipath_exporter -l multipathd.socket -d 'Socket of multipathd, @NAME for an abstract one. Repeatable; the first that answers is used [default: both of multipathd\'s own]' -r
complete -c multipath_exporter -l multipathd.timeout -d 'How long to wait for an answer of multipathd. For all its maps it has five times as long' -r
complete -c multipath_exporter -l resync.interval -d 'How often to read everything, whatever events say; less often where that takes long' -r
complete -c multipath_exporter -l reread.interval -d 'How often to read what has no event: sessions, ports and controllers, ALUA states, suspended, queueing' -r
complete -c multipath_exporter -l config.file -d 'Configuration file (YAML). SIGHUP re-reads it' -r -F
complete -c multipath_exporter -l memory.file -d 'File in which the exporter keeps what it remembers through restarts [default: it remembers only while it runs]' -r -F
complete -c multipath_exporter -l memory.window -d 'How long it remembers what is gone' -r
complete -c multipath_exporter -l capture -d 'Write what is read on this host, its names replaced, to a file (tar.gz) that is not there yet, or - for standard output, and leave' -r -F
complete -c multipath_exporter -l log.level -d 'Least severe level to log' -r -f -a "debug\t''
info\t''
warn\t''
error\t''"
complete -c multipath_exporter -l log.format -d 'Form of the log lines' -r -f -a "logfmt\t''
json\t''"
complete -c multipath_exporter -l web.systemd-socket -d 'Serve on the sockets that systemd passes, not on addresses'
complete -c multipath_exporter -l web.no-status-page -d 'Serve only the metrics and the health, neither status page nor API nor runbooks'
complete -c multipath_exporter -l no-collector.dm -d 'No ioctls nor event poll of device mapper: its devices come from multipathd, sysfs and events'
complete -c multipath_exporter -l collector.dm
complete -c multipath_exporter -l no-collector.nvme -d 'No native NVMe multipath devices'
complete -c multipath_exporter -l collector.nvme
complete -c multipath_exporter -l no-collector.iscsi -d 'No iSCSI sessions, and no ports of paths over iSCSI'
complete -c multipath_exporter -l collector.iscsi
complete -c multipath_exporter -l no-collector.fc -d 'No Fibre Channel ports, neither of this host nor of paths'
complete -c multipath_exporter -l collector.fc
complete -c multipath_exporter -l no-collector.multipathd -d 'Do not ask multipathd'
complete -c multipath_exporter -l collector.multipathd
complete -c multipath_exporter -l no-collector.paths -d 'No series for each path'
complete -c multipath_exporter -l collector.paths
complete -c multipath_exporter -l collector.paths.unhealthy-only -d 'Series for each path only for devices with failed, missing, marginal, disputed or differing paths, with new I/O errors, or without redundancy'
complete -c multipath_exporter -l config.check -d 'Check the configuration files and leave'
complete -c multipath_exporter -l oneshot -d 'Print the state once, in Prometheus text format, and leave'
complete -c multipath_exporter -s h -l help -d 'Print help'
complete -c multipath_exporter -s V -l version -d 'Print version'
