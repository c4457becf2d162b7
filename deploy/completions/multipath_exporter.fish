complete -c multipath_exporter -l web.listen-address -d 'Address to listen on, as [HOST]:PORT. Repeatable' -r
complete -c multipath_exporter -l web.config.file -d 'Web configuration file (YAML) of Prometheus\'s exporter-toolkit: TLS, basic authentication, rate limit, headers. The exporter reloads it when it changes' -r -F
complete -c multipath_exporter -l web.telemetry-path -d 'Path of the metrics page' -r
complete -c multipath_exporter -l web.max-requests -d 'Number of scrapes that are served at once; further ones get status 503. 0 for no limit' -r
complete -c multipath_exporter -l web.address-share -d 'Share of each limit that one client address may use, in percent. Use 100 behind a proxy' -r
complete -c multipath_exporter -l web.allowed-host -d 'Host name that browsers may use for the status page, the API and the runbooks, besides addresses, localhost and this host\'s node name. Other names get status 421. Repeatable' -r
complete -c multipath_exporter -l path.sysfs -d 'Mount point of sysfs' -r -F
complete -c multipath_exporter -l path.procfs -d 'Mount point of procfs' -r -F
complete -c multipath_exporter -l path.udev.data -d 'Directory of udev\'s database' -r -F
complete -c multipath_exporter -l path.capture -d 'Replay a capture: the directory where the archive of --capture was unpacked' -r -F
complete -c multipath_exporter -l multipathd.socket -d 'Socket of multipathd; @NAME for an abstract one. Repeatable; the first one that answers is used [default: both standard sockets of multipathd]' -r
complete -c multipath_exporter -l multipathd.timeout -d 'Time limit for a reply of multipathd; five times as long for the list of all maps' -r
complete -c multipath_exporter -l resync.interval -d 'Interval of resyncs, which read everything independently of events; longer where they take long' -r
complete -c multipath_exporter -l reread.interval -d 'Interval of re-reads of state that has no events: sessions, ports, controllers, ALUA states, suspended, queueing' -r
complete -c multipath_exporter -l config.file -d 'Configuration file (YAML). SIGHUP reloads it' -r -F
complete -c multipath_exporter -l memory.file -d 'File that keeps the exporter\'s memory across restarts [default: none; the memory ends with the process]' -r -F
complete -c multipath_exporter -l memory.window -d 'How long the exporter remembers devices and paths that are gone' -r
complete -c multipath_exporter -l capture -d 'Write what the exporter reads on this host, with all names replaced, to a new file (tar.gz) and exit; - stands for standard output' -r -F
complete -c multipath_exporter -l log.level -d 'Lowest level to log' -r -f -a "debug\t''
info\t''
warn\t''
error\t''"
complete -c multipath_exporter -l log.format -d 'Format of the log lines' -r -f -a "logfmt\t''
json\t''"
complete -c multipath_exporter -l web.systemd-socket -d 'Listen on the sockets that systemd passes, not on addresses'
complete -c multipath_exporter -l web.no-status-page -d 'Serve only the metrics and the health checks: no status page, no API, no runbooks'
complete -c multipath_exporter -l no-collector.dm -d 'Do not ask device mapper: no ioctls, no event poll. Its devices come from multipathd, sysfs and events'
complete -c multipath_exporter -l collector.dm
complete -c multipath_exporter -l no-collector.nvme -d 'Do not read native NVMe multipath devices'
complete -c multipath_exporter -l collector.nvme
complete -c multipath_exporter -l no-collector.iscsi -d 'Do not read iSCSI sessions; the ports of paths over iSCSI stay empty'
complete -c multipath_exporter -l collector.iscsi
complete -c multipath_exporter -l no-collector.fc -d 'Do not read Fibre Channel ports; the ports of paths over Fibre Channel stay empty'
complete -c multipath_exporter -l collector.fc
complete -c multipath_exporter -l no-collector.multipathd -d 'Do not ask multipathd'
complete -c multipath_exporter -l collector.multipathd
complete -c multipath_exporter -l no-collector.paths -d 'Do not export per-path series'
complete -c multipath_exporter -l collector.paths
complete -c multipath_exporter -l collector.paths.unhealthy-only -d 'Export per-path series only for devices that need attention. These have failed, missing, marginal, blocked, stray, disagreeing or mismatched paths, new I/O errors, stalled I/O, or no redundancy'
complete -c multipath_exporter -l config.check -d 'Check the configuration files and exit'
complete -c multipath_exporter -l oneshot -d 'Print the metrics once, in Prometheus text format, and exit'
complete -c multipath_exporter -s h -l help -d 'Print help'
complete -c multipath_exporter -s V -l version -d 'Print version'
