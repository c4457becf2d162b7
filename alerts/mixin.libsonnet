// Alerts of multipath_exporter, as a mixin: `prometheusAlerts` and `grafanaDashboards`.
//
// `render` makes multipath.rules.yml and the operator's object from it. A field `why` becomes the
// comment of its rule.
(import 'config.libsonnet') +
{
  local cfg = $._config,

  // A selector of a metric, with additional matchers if the alert needs them.
  local metric(name, matchers='') =
    local all = std.join(',', std.filter(function(part) part != '', [cfg.selector, matchers]));
    if all == '' then name else '%s{%s}' % [name, all],

  // A gauge that exists as long as its object. A missed scrape must not end an alert, and must not
  // restart a `for`.
  local last(name, matchers='') = 'last_over_time(%s[5m])' % metric(name, matchers),

  // A series that ends with its cause. It is read like a gauge of `last`, but only while its host
  // answers no scrape. `labels` are the series' own labels.
  local fault(name, labels='wwid', matchers='', condition='', newline='\n') =
    '%s%s%sor %s%s%sunless ignoring (%s) %s' % [
      metric(name, matchers),
      condition,
      newline,
      last(name, matchers),
      condition,
      newline,
      labels,
      metric('multipath_devices'),
    ],

  // Ends an alert about devices when their host has no device of that kind, because `last` sees a
  // removed device for five minutes. The host's own count costs nothing. A second look at each of
  // 25,000 devices costs half a second.
  local unlessNone(name) = 'unless ignoring (wwid) %s == 0' % metric(name),

  local pathless = '%s == 0 %s' % [
    last('multipath_device_valid_paths'),
    unlessNone('multipath_devices_without_valid_paths'),
  ],
  // For alerts that wait: a device that was removed in order must not become an alert in that time.
  local pathlessStill = '(%s)' % fault('multipath_device_valid_paths', condition=' == 0', newline=' '),
  local unused = '%s == 0' % last('multipath_device_in_use'),

  // Adds the alias. topk is necessary because the old and the new series of a renamed device both
  // exist for five minutes.
  local infoLabels = 'name, sysfs_name, uuid, kind, vendor, product, revision',
  local named(expr, newline='\n', matchers='') = '(%s)%s* ignoring (%s) group_left (name)\ntopk without (%s) (1, %s)' % [
    expr,
    newline,
    infoLabels,
    infoLabels,
    last('multipath_device_info', matchers),
  ],

  // The rise of a counter according to its samples. `increase` extrapolates, and each engine does
  // so in its own way: VictoriaMetrics assumes that a counter that it has not seen for hours rose
  // now. The first comparison leaves out the many counters that are 0, because the subtraction of
  // 25,000 numbers costs as much as their reading.
  local rose(name, condition, window='15m', threshold=condition) =
    '(%s %s) - min_over_time(%s[%s]) %s' % [last(name), condition, metric(name), window, threshold],

  // Lost devices. topk is necessary because a device has two series while its alias changes, and
  // the two would become two equal alerts.
  local lost(matchers) =
    'topk without (name) (1, %s)' %
    fault('multipath_lost_device_info', 'wwid, name, kind, vendor, product, reason', matchers),

  local device = '{{ $labels.wwid }}',
  local onHost = 'on host {{ $labels.instance }}',

  local alert(name, why, expr, annotations, labels={}, duration=cfg.durations[name]) = {
    why:: why,
    alert: name,
    expr: expr,
    [if duration != '0s' then 'for']: duration,
    labels: { severity: cfg.severities[name] } + labels,
    annotations: annotations { runbook_url: cfg.runbookURL % name },
  },

  // An alert in oVirt's words. It has no summary, because each text of 25,000 alerts adds half a
  // second to an evaluation. The alias is in the text and not a label, so a renamed device keeps
  // its alert.
  local problem(name, why, expr, sentence, more, labels={}, duration=cfg.durations[name]) =
    alert(name, why, expr, { description: '%s [%s]. %s' % [sentence, device + '{{ with $labels.name }} ({{ . }}){{ end }}', more] }, { name: '' } + labels, duration),

  local finding(name, why, expr, summary, description) =
    alert(name, why, expr, { summary: summary, description: description }),

  local withoutPaths = 'Multipath devices without valid paths %s:' % onHost,

  local groups = [
    {
      // The worst comes first. Prometheus sends the alerts rule by rule, and a message should not
      // begin with an ended alert.
      name: 'multipath',
      rules: [
        problem(
          'MultipathNoValidPaths',
          'oVirt: a device has no valid path, and is in use. At once: its I/O fails or waits. ' +
          'A device whose use is unknown counts as in use.',
          named('%s unless %s > 0 unless %s' % [pathless, last('multipath_device_standby_paths'), unused]),
          withoutPaths,
          'I/O to it fails, or waits until a path is back.',
        ),
        problem(
          'MultipathNoValidPaths',
          'NVMe: the same for a device with standby paths. One minute: an array needs seconds to move its ' +
          'namespaces to another controller.',
          named(
            '%s and %s > 0 unless %s' % [pathless, last('multipath_device_standby_paths'), unused],
            matchers='kind="nvme"',
          ),
          withoutPaths,
          'It has only standby paths: I/O waits until the array makes one of them optimized.',
          labels={ paths: 'standby' },
          duration=cfg.durations.MultipathNoValidPathsStandby,
        ),
        problem(
          'MultipathNoValidPathsUnused',
          'A device has no valid path, and nothing uses it. One minute: a volume looks like this while it is ' +
          'being detached.',
          named('%s and %s' % [pathlessStill, unused]),
          withoutPaths,
          'Nothing uses it.',
        ),
        problem(
          'MultipathDeviceInUseLost',
          'A device that was in use is gone. At once: its users have failed.',
          lost('reason="in_use"'),
          'Lost multipath devices %s:' % onHost,
          'It was in use and is gone.',
        ),
        problem(
          'MultipathDeviceLost',
          'A device is gone after all its paths had failed, or it did not return after a boot. ' +
          'At once: the exporter itself has already waited.',
          lost('reason!="in_use"'),
          'Lost multipath devices %s:' % onHost,
          '{{ if eq $labels.reason "not_back_after_boot" }}It was in use before the boot, and has not come back.' +
          '{{ else }}It had no valid path when it went.{{ end }}',
        ),
        problem(
          'MultipathFaultyPaths',
          'oVirt: a device has failed paths and valid ones. At once: the next failure may be the last.',
          named('%s > 0 unless %s == 0 %s' % [
            last('multipath_device_failed_paths'),
            last('multipath_device_valid_paths'),
            unlessNone('multipath_degraded_devices'),
          ]),
          'Faulty multipath paths %s on devices:' % onHost,
          'Failed paths: {{ $value }}.',
        ),
        problem(
          'MultipathPathsMissing',
          'A device has fewer paths than it is expected to have. Ten minutes: after a reboot or a new login ' +
          'the paths return one by one.',
          // A device that the configuration names has no alias while it is absent.
          '%s\nor ignoring (name) %s' % [
            named('%s > 0 %s' % [last('multipath_device_missing_paths'), unlessNone('multipath_missing_paths')], newline=' '),
            '(%s > 0 %s)' % [last('multipath_device_missing_paths'), unlessNone('multipath_missing_paths')],
          ],
          'Missing multipath paths %s on devices:' % onHost,
          'Missing paths: {{ $value }}.',
        ),
        alert(
          'MultipathPathsRecovered',
          'oVirt: all devices of a host are well again. It fires for ten minutes, long enough for any ' +
          'Alertmanager to send it.',
          'abs(time() - %s) < 600\nunless %s == 1' % [
            last('multipath_last_recovery_timestamp_seconds'),
            last('multipath_in_trouble'),
          ],
          { description: 'No faulty multipath paths %s.' % onHost },
        ),
      ],
    },
    {
      name: 'multipath-devices',
      rules: [
        finding(
          'MultipathSinglePath',
          'One of several valid paths is left. Ten minutes: the other alerts report shorter failures.',
          '%s == 1 unless %s > 0\nand %s > 1' % [
            last('multipath_device_valid_paths'),
            last('multipath_device_standby_paths'),
            last('multipath_device_expected_paths'),
          ],
          'A multipath device has a single valid path left.',
          'Device %s %s has one valid path left. The next failure takes it away.' % [device, onHost],
        ),
        finding(
          'MultipathNotRedundant',
          'Redundancy that lasted for hours is gone. Silent while a path has failed, because another alert ' +
          'reports that.',
          '%s == 1\nunless %s > 0' % [last('multipath_device_redundancy_lost'), last('multipath_device_failed_paths')],
          'A multipath device has lost its redundancy.',
          'All paths of device %s %s share one port or fabric. They did not before.' % [device, onHost],
        ),
        finding(
          'MultipathNeverRedundant',
          'A device that should be redundant never was. One hour: an administrator may still be setting up the host.',
          '%s == 0\nunless %s == 1\nunless %s > 0' % [
            last('multipath_device_redundant'),
            last('multipath_device_redundancy_lost'),
            last('multipath_device_failed_paths'),
          ],
          'A multipath device has never been redundant.',
          'All paths of device %s %s share one port or fabric. `redundant: false` in the configuration says that this is meant.'
          % [device, onHost],
        ),
        finding(
          'MultipathFewerPathsThanOtherHosts',
          'Half of the hosts that have this LUN have more paths to it. One hour: hosts are set up one after the other.',
          '%s\n< on (%s, wwid) group_left ()\nquantile by (%s, wwid) (0.5, %s)' % [
            last('multipath_device_paths'),
            cfg.clusterLabel,
            cfg.clusterLabel,
            last('multipath_device_paths'),
          ],
          'A multipath device has fewer paths than on other hosts.',
          'Device %s %s has {{ $value }} paths. Most other hosts have more.' % [device, onHost],
        ),
        finding(
          'MultipathPathFlapping',
          'The same path failed three times within fifteen minutes: two of these failures repeat an earlier one.',
          rose('multipath_device_repeated_path_failures_total', '>= 2'),
          'A path of a multipath device fails again and again.',
          'Paths of device %s %s failed again {{ $value }} times within 15 minutes.' % [device, onHost],
        ),
        finding(
          'MultipathPathMarginal',
          'multipathd keeps paths out of use because they are unreliable. ' +
          'Five minutes: longer than the first wait of multipathd.',
          fault('multipath_device_marginal_paths'),
          'multipathd holds paths of a device to be marginal.',
          'Device %s %s has {{ $value }} marginal paths.' % [device, onHost],
        ),
        finding(
          'MultipathPathErrors',
          'More than ten errors within ten minutes, for fifteen minutes: a controller that restarts causes ' +
          'many errors at once.',
          rose('multipath_device_path_io_errors_total', '> 10', '10m'),
          'Paths of a multipath device report I/O errors.',
          'Paths of device %s %s had {{ $value }} I/O errors within 10 minutes.' % [device, onHost],
        ),
        finding(
          'MultipathAllPathsBlocked',
          'The kernel regards the paths as valid, and sends no I/O to them. ' +
          'One minute: a fabric change blocks paths for seconds.',
          '(%s)\n>= %s' % [
            fault('multipath_device_blocked_paths', newline=' '),
            last('multipath_device_valid_paths'),
          ],
          'All valid paths of a multipath device are blocked.',
          'All {{ $value }} valid paths of device %s %s are blocked. No I/O gets through.' % [device, onHost],
        ),
        finding(
          'MultipathIoStalled',
          'No I/O has completed for one minute, although some is in flight. ' +
          'That is twice the time that a SCSI command may take.',
          fault('multipath_device_stalled_seconds', condition=' >= 60'),
          'I/O of a multipath device stands still.',
          'No I/O of device %s %s has completed for {{ humanizeDuration $value }}.' % [device, onHost],
        ),
        finding(
          'MultipathQueueingWithoutPaths',
          'I/O waits for a path. Two minutes: most services that wait longer have to be restarted.',
          '%s\nand %s == 1\nunless %s' % [pathlessStill, last('multipath_device_queueing'), unused],
          'I/O waits for a device that has no valid path.',
          'Device %s %s has no valid path and queues. Programs that use it hang.' % [device, onHost],
        ),
        finding(
          'MultipathDeviceSuspended',
          'A suspended device completes no I/O. Five minutes: a table reload takes less than one minute.',
          fault('multipath_device_suspended'),
          'A multipath device has been suspended for minutes.',
          'Device %s %s is suspended. Programs that use it hang.' % [device, onHost],
        ),
        finding(
          'MultipathNonOptimizedPath',
          'I/O takes a slower way through the array. Fifteen minutes: an array needs some minutes to move its ' +
          'LUNs back.',
          fault('multipath_device_non_optimized'),
          'A multipath device works over non-optimized paths.',
          'Device %s %s does not use optimized paths.' % [device, onHost],
        ),
        finding(
          'MultipathStateDisagreement',
          'The kernel and the path checker disagree. Five minutes: longer than the longest interval of the checker.',
          fault('multipath_device_disagreeing_paths'),
          'The kernel and the path checker disagree on paths of a device.',
          'On {{ $value }} paths of device %s %s the kernel and the checker or SCSI disagree.' % [device, onHost],
        ),
        finding(
          'MultipathSizeMismatch',
          'Paths differ from their device in size. Five minutes: the paths of a grown LUN are rescanned one by one.',
          fault('multipath_device_size_mismatched_paths'),
          'Paths of a multipath device differ from it in size.',
          '{{ $value }} paths of device %s %s have another size than the device.' % [device, onHost],
        ),
        finding(
          'MultipathReadOnlyMismatch',
          'Paths differ from their device in write protection. Five minutes: a rescan takes less.',
          fault('multipath_device_read_only_mismatched_paths'),
          'Paths of a multipath device differ from it in write protection.',
          '{{ $value }} paths of device %s %s have another write protection than the device.' % [device, onHost],
        ),
        finding(
          'MultipathWwidMismatch',
          'Paths lead to another LUN. At once: the next write may destroy the data of another LUN.',
          fault('multipath_device_wwid_mismatched_paths'),
          'A path of a multipath device leads to another LUN.',
          '{{ $value }} paths of device %s %s now report another WWID. Data is at risk: stop its use.' % [device, onHost],
        ),
        finding(
          'MultipathLunConflict',
          'One pair of ports has two LUNs in one device. Five minutes: an array may be renumbering its LUNs.',
          fault('multipath_device_lun_conflicts'),
          'One multipath device holds two LUNs.',
          'Device %s %s has {{ $value }} pairs of ports with two LUNs. Data is at risk: stop its use.' % [device, onHost],
        ),
        finding(
          'MultipathLunMismatch',
          'Paths to one target have different LUN numbers. Five minutes: an array may be renumbering its LUNs.',
          fault('multipath_device_lun_mismatched_paths'),
          'Paths of a multipath device have another LUN number.',
          '{{ $value }} paths of device %s %s have another LUN number than the rest.' % [device, onHost],
        ),
        finding(
          'MultipathStrayPath',
          'Disks have the WWID of a device, but are not among its paths. Ten minutes: multipathd adds a new ' +
          'disk within one minute.',
          fault('multipath_device_stray_paths'),
          'A disk belongs to a multipath device that does not hold it.',
          '{{ $value }} disks have the WWID of device %s %s, and are not among its paths.' % [device, onHost],
        ),
        finding(
          'MultipathDiskUsedDirectly',
          'A disk is used directly and not through its device, so one path failure ends the use. ' +
          'Five minutes: an installer may examine it.',
          fault('multipath_disk_used_directly', 'wwid, disk, by'),
          'A disk is used beside its multipath device.',
          'Disk {{ $labels.disk }} of %s %s is used directly (by {{ $labels.by }}).' % [device, onHost],
        ),
        finding(
          'MultipathNotAssembled',
          'A disk has several paths, and no device holds it. Fifteen minutes: administrators set up a new LUN by hand.',
          fault('multipath_unassembled_paths'),
          'A disk with several paths is not used through multipath.',
          'Disk %s %s has {{ $value }} paths, and no multipath device holds it.' % [device, onHost],
        ),
      ],
    },
    {
      name: 'multipath-transport',
      rules: [
        finding(
          'MultipathIscsiSessionDown',
          'A session is not logged in. Two minutes: a session recovers by itself within its timeout of two minutes.',
          fault('multipath_iscsi_session_up', 'session, target, target_port, initiator_port', condition=' == 0'),
          'An iSCSI session is not logged in.',
          '{{ $labels.session }} %s to {{ $labels.target }} at {{ $labels.target_port }} over {{ $labels.initiator_port }} is down.'
          % onHost,
        ),
        finding(
          'MultipathIscsiSessionFlapping',
          'Three failures within fifteen minutes: the restart of a switch causes one, and the restart of its '
          + 'neighbour another. Sessions with the same ports share a counter, and fail together. '
          + 'So the threshold is three times their number, or three if it is unknown.',
          rose(
            'multipath_iscsi_session_failures_total',
            '>= 3',
            threshold='>= 3 * max_over_time((count without (session) (%s) or %s ^ 0)[15m:1m])'
                      % [metric('multipath_iscsi_session_up'), metric('multipath_iscsi_session_failures_total')]
          ),
          'An iSCSI session fails again and again.',
          'The session %s to {{ $labels.target }} at {{ $labels.target_port }} failed {{ $value }} times within 15 minutes.'
          % onHost,
        ),
        finding(
          'MultipathSessionWithoutPath',
          'A session carries no path, but other sessions to its target do. Ten minutes: its disks may still appear.',
          '%s == 1 and %s == 0\nand ignoring (session, target_port, initiator_port)\nsum without (session, target_port, initiator_port) (%s) > 0' % [
            last('multipath_iscsi_session_up'),
            last('multipath_iscsi_session_paths'),
            last('multipath_iscsi_session_paths'),
          ],
          'An iSCSI session carries no path.',
          '{{ $labels.session }} %s to {{ $labels.target }} at {{ $labels.target_port }} carries no path of any device.' % onHost,
        ),
        finding(
          'MultipathIscsiBondNetworkDown',
          'A network of a bond does not reach its targets. Two minutes, as for the sessions that use it.',
          fault('multipath_iscsi_bond_network_up', 'bond, network', condition=' == 0'),
          'A network of an iSCSI bond is down.',
          'Network {{ $labels.network }} of iSCSI bond {{ $labels.bond }} %s does not reach all targets.' % onHost,
        ),
        finding(
          'MultipathIscsiBondDown',
          'No network of a bond reaches its targets. One minute: the failover of a switch takes less.',
          fault('multipath_iscsi_bond_networks_up', 'bond', condition=' == 0'),
          'No network of an iSCSI bond is up.',
          'No network of iSCSI bond {{ $labels.bond }} %s reaches all targets.' % onHost,
        ),
        finding(
          'MultipathFcHostPortDown',
          'A host port was online and no longer is. Two minutes: the restart of a switch port takes less.',
          fault('multipath_fc_host_port_up', 'initiator_port', condition=' == 0'),
          'A Fibre Channel host port is down.',
          'Port {{ $labels.initiator_port }} %s is down.' % onHost,
        ),
        finding(
          'MultipathFcRemotePortDown',
          'A remote port is lost. Two minutes: a controller needs less to move its ports.',
          fault('multipath_fc_remote_port_up', 'initiator_port, target_port', condition=' == 0'),
          'A Fibre Channel remote port is lost.',
          'Port {{ $labels.initiator_port }} %s has lost the remote port {{ $labels.target_port }}.' % onHost,
        ),
        finding(
          'MultipathNvmeControllerDown',
          'A controller is not live. Two minutes: most reconnects take less.',
          fault('multipath_nvme_controller_up', 'controller, target, target_port, initiator_port', condition=' == 0'),
          'An NVMe controller is not live.',
          '{{ $labels.controller }} %s to {{ $labels.target }} at {{ $labels.target_port }} over {{ $labels.initiator_port }} is down.'
          % onHost,
        ),
        finding(
          'MultipathNvmeNamespaceUnreachable',
          'Namespaces have been inaccessible since the connect. Five minutes: an array needs some minutes to ' +
          'publish them.',
          fault('multipath_nvme_unreachable_namespaces', 'target', condition=' > 0'),
          'NVMe namespaces cannot be reached.',
          '{{ $value }} paths %s to namespaces of {{ $labels.target }} have no device.' % onHost,
        ),
        finding(
          'MultipathDaemonDown',
          'multipathd does not answer on a host with maps. Five minutes: an upgrade takes less.',
          '%s == 0\nand ignoring (wwid, %s) %s' % [
            last('multipath_daemon_up'),
            infoLabels,
            last('multipath_device_info', 'kind="dm"'),
          ],
          'multipathd does not answer.',
          'multipathd %s does not answer. Nothing reinstates failed paths.' % onHost,
        ),
        finding(
          'MultipathDaemonBlocked',
          'multipathd answers, but does not report its maps. Five minutes: a reconfiguration of a large host ' +
          'takes less.',
          '%s == 1\nand ignoring (source) %s == 0' % [
            last('multipath_daemon_up'),
            last('multipath_exporter_source_up', 'source="multipathd"'),
          ],
          'multipathd answers, but does not tell of its devices.',
          'multipathd %s answers, but has not told of its devices for minutes.' % onHost,
        ),
      ],
    },
    {
      name: 'multipath-exporter',
      rules: [
        finding(
          'MultipathExporterDown',
          'A target does not answer, or no target exists. Five minutes: a restart takes less. ' +
          'This alert cannot see a target that is removed while others stay.',
          // A host that uses the textfile collector has no target of the exporter.
          '%s == 0\nor absent(%s) unless on () %s' % [
            metric('up', cfg.jobSelector),
            metric('up', cfg.jobSelector),
            metric('multipath_devices'),
          ],
          'An exporter does not answer, or Prometheus has no target.',
          '{{ if $labels.instance }}The exporter %s does not answer. Nothing is known of its paths.' % onHost +
          '{{ else }}Prometheus has no target that matches %s. Nothing is known of any host.{{ end }}' % cfg.jobSelector,
        ),
        finding(
          'MultipathExporterStale',
          'A source cannot be read. Five minutes: the exporter tries a hanging device again. ' +
          'MultipathDaemonDown reports multipathd.',
          '%s == 0' % last('multipath_exporter_source_up', 'source!="multipathd"'),
          'The exporter cannot read a source.',
          'The exporter %s cannot read its source {{ $labels.source }}. Its devices are shown as they were.' % onHost,
        ),
        finding(
          'MultipathExporterErrors',
          'Objects repeatedly cannot be read, or the memory cannot be written. ' +
          'Objects that vanish cause single errors.',
          '%s\nor %s == 0' % [
            rose('multipath_exporter_errors_total', '> 5', '10m'),
            last('multipath_exporter_memory_last_write_successful'),
          ],
          'The exporter cannot read some objects, or cannot write its memory.',
          'The exporter %s ' % onHost +
          '{{ with $labels.source }}failed {{ $value }} times within 10 minutes to read objects of its source {{ . }}.' +
          '{{ else }}cannot write its memory: it forgets at its next restart.{{ end }}',
        ),
      ],
    },
  ],

  prometheusAlerts+:: {
    groups+: [
      group { rules: std.filter(function(rule) !std.member(cfg.disabled, rule.alert), group.rules) }
      for group in groups
    ],
  },

  // The same rules with the reason of each alert, for `render`.
  explained:: [
    group { rules: [rule { why::: rule.why } for rule in group.rules] }
    for group in $.prometheusAlerts.groups
  ],

  grafanaDashboards+:: { 'multipath.json': import '../dashboards/multipath.json' },
}
