#!/usr/bin/env python3
"""Writes an hour of a fleet of eight hosts, as Prometheus would have scraped it, in OpenMetrics
with timestamps.

    fleet.py SCENARIO OUT.om FACTS.json      SCENARIO: a key of FAULTS

The output has the same bytes every time. A list of faults breaks a model of hosts, devices and
paths. The model gives a page every 30 seconds, so counters, states and labels agree as the
exporter's would. FACTS holds the true values at the end of the hour, counted on the model and not
on the metrics. The dashboard must show these values. Null is a value that cannot be known.

The scenario `missing` has two clusters, each with a host of the same name.

A second job has its own targets, which are down. A query without the job would count them.
"""
import collections
import dataclasses
import json
import sys

START, MINUTES, STEP = 1795168800, 60, 30  # 2026-11-20T10:00:00Z
JOB, END = 'multipath', START + MINUTES * 60
SOURCES = ('dm', 'multipathd', 'sysfs', 'uevent')
BUCKETS = ('0.0005', '0.001', '0.0025', '0.005', '0.01', '0.025', '0.05', '0.1', '0.25', '1.0', '5.0', '+Inf')
GIB = 1 << 30


def record(name, fields):
    """A record equals only itself, because two hosts may hold the same device."""
    return dataclasses.make_dataclass(name, fields.split(), eq=False)


Path = record('Path', 'name devno hctl transport group initiator target target_port priority ana')
Device = record('Device', 'wwid name sysfs_name uuid kind vendor product revision size root paths')
Host = record('Host', 'name kind devices instance cluster')

# A fault of a kind in a part of a host (a port, a device's name or a path), during the minutes
# [first, last).
Fault = collections.namedtuple('Fault', 'first last host part kind')


def fc_device(host, number, wwid, name, lun, size, root=False):
    letters = 'abcdefghijklmnopqrstuvwxyz'
    paths = []
    for index in range(4):
        adapter, array = divmod(index, 2)
        disk = 4 * number + index
        paths.append(Path('sd' + letters[disk], f'8:{16 * disk}', f'{6 + adapter}:0:{array}:{lun}', 'fc', str(array + 1),
                          f'0x2100000e1e{host:02x}{adapter:02x}a0', '0x5006016bc7200000',
                          f'0x5006016{adapter + 1}{array}7208b01', 50 - 40 * array, None))
    return Device(wwid, name, f'dm-{number}', 'mpath-' + wwid, 'dm', 'DGC', 'VRAID', '0533', size, root, paths)


def iscsi_device(number, wwid, name, lun, size):
    letters = 'bcdefghijklmnopqrstuvwxyz'
    paths = []
    for index in range(2):
        disk = 2 * number + index
        paths.append(Path('sd' + letters[disk], f'8:{16 * (disk + 1)}', f'{2 + index}:0:0:{lun}', 'iscsi', '1', f'eth{index + 1}',
                          'iqn.2003-01.org.example:array2', ('192.0.2.10:3260', '198.51.100.10:3260')[index], 50, None))
    return Device(wwid, name, f'dm-{number}', 'mpath-' + wwid, 'dm', 'NETAPP', 'LUN C-Mode', '9111', size, False, paths)


def nvme_device(number, wwid, uuid, size):
    paths = []
    for controller in range(4):
        network, near = divmod(controller, 2)
        paths.append(Path(f'nvme{number}c{controller}n1', '', '', 'nvme-tcp', str(near + 1), f'ens{network + 1}f0',
                          'nqn.2010-06.com.example:array3', f'203.0.113.{10 + controller}:4420', None,
                          'inaccessible' if near else 'optimized'))
    return Device(wwid, f'nvme{number}n1', f'nvme{number}n1', uuid, 'nvme', '', 'Array3 FlashStore', '6.4.1', size, False, paths)


def hosts(clusters=False):
    result = []

    def add(name, kind, devices):
        far = clusters and name[-1] in '34'  # db3 and db4 are db1 and db2 of another cluster
        instance = name.translate(str.maketrans('34', '12')) if far else name
        result.append(Host(name + ':10056', kind, devices, instance + ':10056', ('west' if far else 'east') if clusters else None))

    shared = [('3600601607290330014f5d6bb31e4ec11', 'pg-data', 1, 4096), ('3600601607290330015f5d6bb31e4ec11', 'pg-wal', 2, 512),
              ('3600601607290330016f5d6bb31e4ec11', 'backup', 3, 8192)]
    for number in range(1, 5):
        boot = f'360060160729033002{number}f5d6bb31e4ec11'
        devices = [fc_device(number, 0, boot, 'boot', 0, 64 * GIB, root=True)]
        devices += [fc_device(number, i + 1, wwid, name, lun, gib * GIB) for i, (wwid, name, lun, gib) in enumerate(shared)]
        add(f'db{number}', 'fc', devices)
    for number in range(1, 3):
        add(f'web{number}', 'iscsi', [
            iscsi_device(i, f'3600a098038304479363f4c487045786{i}', f'vmstore{i + 1}', i, (i + 1) * 1024 * GIB) for i in range(3)])
    for number in range(1, 3):
        add(f'ai{number}', 'nvme', [
            nvme_device(i, f'eui.00e0f0a1b2c3d40{i}24a93712{i:02x}aa01', f'3f0d2b1c-5a77-4b63-9d2e-{i:012x}', 2048 * GIB)
            for i in range(2)])
    return result


# Gauges that exist only while they are above 0, and their values here.
GAUGES = {'suspended': 1, 'size_mismatched_paths': 1, 'read_only_mismatched_paths': 1, 'wwid_mismatched_paths': 1, 'marginal_paths': 1,
          'disagreeing_paths': 1, 'non_optimized': 1, 'blocked_paths': 4, 'stalled_seconds': 95, 'stray_paths': 1, 'lun_mismatched_paths': 1,
          'lun_conflicts': 1}
DB1, DB2, DB3, DB4 = (f'db{n}:10056' for n in range(1, 5))
WEB1, WEB2, AI1, AI2 = 'web1:10056', 'web2:10056', 'ai1:10056', 'ai2:10056'

FAULTS = {
    'healthy': [
        Fault(0, 99, WEB2, 'vmstore3', 'lone'),                  # never had more than one path: not an alert
        Fault(0, 99, AI2, None, 'no-daemon'),                    # NVMe only: needs no multipathd
        Fault(12, 20, DB2, '0x2100000e1e0200a0', 'down'),        # over: the host has recovered
        Fault(40, 99, AI1, None, 'restarted'),
    ],
    'degraded': [
        Fault(24, 99, DB4, '0x2100000e1e0401a0', 'down'),        # a cable: a shared LUN is degraded on this host only
        Fault(35, 99, WEB1, '198.51.100.10:3260', 'down'),       # an iSCSI session, and with it a network of the bond
        Fault(44, 99, AI1, '203.0.113.12:4420', 'down'),         # an NVMe controller that reconnects
        Fault(30, 38, AI2, 'ens1f0', 'change'),                  # ANA transition: neither valid nor failed
        Fault(38, 99, WEB2, None, 'exporter'),
        *(Fault(m, m + 2, DB2, 'sdg', 'path') for m in range(8, 52, 5)),
        Fault(20, 99, DB3, 'sdh', 'marginal'), Fault(20, 99, DB3, 'pg-data', 'marginal_paths'),
        Fault(20, 99, DB3, 'backup', 'read_only_mismatched_paths'),
        Fault(28, 99, DB1, 'pg-wal', 'wrong-group'), Fault(28, 99, DB1, 'pg-wal', 'non_optimized'),
        Fault(0, 99, DB1, None, 'unassembled'),
        Fault(15, 99, DB1, None, 'no-daemon'),
        Fault(0, 99, AI2, None, 'no-daemon'),
        Fault(40, 99, DB3, None, 'unreadable'),
    ],
    'lost': [
        Fault(20, 24, DB1, 'pg-data', 'path'), Fault(24, 99, DB1, 'pg-data', 'lost-in-use'),
        Fault(30, 31, DB2, 'backup', 'path'), Fault(31, 99, DB2, 'backup', 'lost'),
        Fault(41, 99, AI1, 'nvme1n1', 'lost-in-use'),
        Fault(26, 99, DB3, 'backup', 'path'),                    # unused and without a valid path
    ],
    'missing': [
        Fault(15, 99, DB1, '0x2100000e1e0101a0', 'gone'),        # half of the paths did not return after a reboot
        Fault(22, 99, DB4, 'sdh', 'gone'),
        Fault(25, 99, WEB1, '198.51.100.10:3260', 'gone'),       # one path left
    ],
    # Hosts in trouble that stopped answering just now. One of them was removed. The alerts still
    # fire, so the tiles may not be green.
    'vanished': [
        Fault(30, 99, DB3, 'pg-wal', 'path'), Fault(58, 99, DB3, None, 'vanished'),
        Fault(30, 99, DB4, 'pg-wal', 'path'), Fault(58, 99, DB4, None, 'exporter'),
    ],
    # One finding of each kind that has no scenario of its own.
    'findings': [
        Fault(30, 99, DB1, 'pg-data', 'wwid_mismatched_paths'), Fault(30, 99, DB1, 'pg-wal', 'lun_conflicts'),
        Fault(30, 99, DB1, 'backup', 'lun_mismatched_paths'), Fault(30, 99, DB1, 'boot', 'size_mismatched_paths'),
        Fault(30, 99, DB2, 'pg-data', 'blocked_paths'), Fault(30, 99, DB2, 'pg-wal', 'stalled_seconds'), Fault(30, 99, DB2, 'backup', 'suspended'),
        Fault(30, 99, DB2, 'boot', 'stray_paths'), Fault(30, 99, DB3, 'pg-data', 'disagreeing_paths'),
        Fault(30, 99, DB3, 'pg-data', 'errors'), Fault(30, 99, DB3, 'sdb', 'used-directly'),
        Fault(30, 99, DB3, None, 'blocked-daemon'), Fault(30, 99, DB4, None, 'no-memory'),
        Fault(0, 99, WEB1, 'vmstore1', 'lone-expected'),         # two paths are expected, and there was never more than one
        Fault(30, 99, WEB1, None, 'both-paths-one-port'),        # all paths use one interface: no longer redundant
        Fault(0, 99, WEB2, None, 'empty-session'),
        *(Fault(m, m + 1, WEB2, '198.51.100.10:3260', 'down') for m in (47, 50, 53, 56)),
        Fault(30, 99, AI1, None, 'unreachable'),
    ],
    'dead': [
        Fault(20, 99, DB1, 'pg-wal', 'path'), Fault(20, 99, DB2, 'pg-wal', 'path'),
        Fault(21, 99, DB3, 'pg-wal', 'path'), Fault(21, 99, DB4, 'pg-wal', 'path'),
        Fault(33, 99, WEB1, '198.51.100.10:3260', 'down'), Fault(39, 99, WEB1, '192.0.2.10:3260', 'down'),
        Fault(30, 99, DB4, '0x2100000e1e0401a0', 'down'), Fault(42, 99, DB4, '0x2100000e1e0400a0', 'down'),
        Fault(41, 99, DB3, None, 'exporter'), Fault(45, 99, WEB2, None, 'foreign'),   # another program answers
        Fault(36, 99, DB2, None, 'no-daemon'),
        Fault(40, 99, AI1, 'ens1f0', 'down'), Fault(43, 99, AI1, 'ens2f0', 'down'),
        Fault(47, 99, AI2, '203.0.113.12:4420', 'down'),
    ],
    # No exporter answers, so no panel may show that nothing is wrong.
    'silent': [Fault(38, 99, host.name, None, 'foreign' if host.kind == 'iscsi' else 'exporter') for host in hosts()],
}


class Fleet:
    def __init__(self, scenario):
        self.faults, self.hosts = FAULTS[scenario], hosts(clusters=scenario == 'missing')
        for host in self.hosts:
            for device in host.devices:
                if self.has(host, 'lone', 0, device.name) or self.has(host, 'lone-expected', 0, device.name):
                    del device.paths[1:]
        self.series = {}                                   # family -> {(suffix, labels): [(time, value)]}
        self.types = {}
        self.counters = collections.Counter()              # events so far, by (host, metric, labels)
        self.before = {}
        self.events = {}

    def has(self, host, kind, minute, *parts):
        return any(f.host == host.name and f.kind == kind and f.first <= minute < f.last and (f.part is None or f.part in parts)
                   for f in self.faults)

    def state(self, host, device, path, minute):
        parts = (path.name, device.name, path.initiator, path.target_port)
        if self.has(host, 'down', minute, *parts) or self.has(host, 'path', minute, *parts):
            return 'failed'
        return 'standby' if self.ana(host, path, minute) in ('inaccessible', 'change') else 'valid'

    def ana(self, host, path, minute):
        if path.ana and self.has(host, 'change', minute, path.initiator):
            return {'optimized': 'change', 'inaccessible': 'non-optimized'}[path.ana]
        return path.ana

    # -- writing -----------------------------------------------------------------------------------

    def put(self, kind, family, host, time, value, suffix='', /, **labels):
        self.types.setdefault(family, kind)
        every = {**({'cluster': host.cluster} if host.cluster else {}), 'job': JOB, 'instance': host.instance, **labels}
        self.series.setdefault(family, {}).setdefault((suffix, tuple(every.items())), []).append((time, value))

    def gauge(self, name, value, /, **labels):
        self.put('gauge', 'multipath_' + name, self.host, self.time, value, **labels)

    def counter(self, name, value, /, **labels):
        self.put('counter', 'multipath_' + name, self.host, self.time, value, '_total', **labels)

    # -- one page ----------------------------------------------------------------------------------

    def page(self, host, time):
        self.host, self.time, minute = host, time, (time - START) / 60
        daemon, count = not self.has(host, 'no-daemon', minute), collections.Counter()
        for device in host.devices:
            if reason := self.lost(host, device, minute):
                on = {'name': device.name, 'kind': device.kind, 'vendor': device.vendor, 'product': device.product}
                self.gauge('lost_device_info', 1, wwid=device.wwid, **on, reason=reason)
                self.gauge('lost_device_timestamp_seconds', START + 60 * min(f.first for f in self.faults if f.kind.startswith('lost') and f.part == device.name),
                           wwid=device.wwid)
                count['MultipathDeviceInUseLost' if reason == 'in_use' else 'MultipathDeviceLost'] += 1
                count['lost'] += 1
            else:
                self.device(host, device, minute, daemon, count)
        unassembled = self.has(host, 'unassembled', minute)
        trouble = int(any(count[one] for one in ('degraded', 'without', 'missing', 'lost')))
        if self.before.get((host, 'trouble')) and not trouble:
            self.before[host, 'recovery'] = time - 3
        self.before[host, 'trouble'] = trouble
        for name, value in (('devices', count['devices']), ('degraded_devices', count['degraded']),
                            ('devices_without_valid_paths', count['without']), ('paths', count['paths']),
                            ('failed_paths', count['failed']), ('unassembled_wwids', int(unassembled)), ('daemon_up', int(daemon)),
                            ('lost_devices', count['lost']), ('missing_paths', count['missing']), ('in_trouble', trouble)):
            self.gauge(name, value)
        count['trouble'] = trouble
        if (host, 'recovery') in self.before:
            self.gauge('last_recovery_timestamp_seconds', self.before[host, 'recovery'])
        if daemon:
            self.gauge('daemon_state', 1, state='idle')
        if unassembled:
            self.gauge('unassembled_paths', 4, wwid='36006016072903300aaf5d6bb31e4ec11')
        for fault in self.faults:
            if fault.host == host.name and fault.kind == 'used-directly' and fault.first <= minute:
                self.gauge('disk_used_directly', 1, wwid=host.devices[0].wwid, disk=fault.part, by='mount')
        self.transport(host, minute)
        self.exporter(host, minute, daemon)
        return count

    def lost(self, host, device, minute):
        return 'in_use' if self.has(host, 'lost-in-use', minute, device.name) else 'no_valid_path' if self.has(host, 'lost', minute, device.name) else None

    def ports(self, host, paths, minute):
        """Returns the initiator ports and target ports of these paths."""
        one = self.has(host, 'both-paths-one-port', minute)
        return {p.initiator if not one else 'eth1' for p in paths}, {p.target_port for p in paths}

    def device(self, host, device, minute, daemon, count):
        states = {p: self.state(host, device, p, minute) for p in device.paths if not self.has(host, 'gone', minute, p.name, p.initiator, p.target_port)}
        tally = collections.Counter(states.values())
        on, in_use = {'wwid': device.wwid}, int(device.name != 'backup')
        expected = len(device.paths) + self.has(host, 'lone-expected', minute, device.name)
        missing = max(0, len(device.paths) - len(states))  # 'lone-expected': the second path is expected, and is not counted as missing yet
        self.gauge('device_info', 1, **on, name=device.name, sysfs_name=device.sysfs_name, uuid=device.uuid, kind=device.kind,
                   vendor=device.vendor, product=device.product, revision=device.revision)
        best = max((p.priority for p, s in states.items() if s == 'valid' and p.priority), default=0)
        wrong = self.has(host, 'wrong-group', minute, device.name)
        initiators, targets = self.ports(host, [p for p, s in states.items() if s != 'failed'], minute)
        redundant = int(len(initiators) > 1 and len(targets) > 1 and bool(tally['valid']))
        before = self.ports(host, device.paths, 0)
        was_redundant = min(map(len, before)) > 1
        for name, value in (('paths', len(states)), ('valid_paths', tally['valid']), ('standby_paths', tally['standby']),
                            ('failed_paths', tally['failed']), ('queueing', int(host.kind != 'iscsi' or minute < 45)),
                            ('read_only', 0), ('size_bytes', device.size), ('open_count', in_use), ('in_use', in_use),
                            ('root', int(device.root)), ('inflight_requests', 0 if not tally['valid'] else int(minute * 7 + device.size / GIB) % 5),
                            ('expected_paths', expected), ('missing_paths', missing), ('initiator_ports', len(initiators)), ('target_ports', len(targets))):
            self.gauge('device_' + name, value, **on)
        if expected > 1 and tally['valid'] + tally['standby']:
            self.gauge('device_redundant', redundant, **on)
            self.gauge('device_redundancy_lost', int(was_redundant and not redundant), **on)
            count['MultipathNotRedundant'] += was_redundant and not redundant and not tally['failed']
        for name, value in GAUGES.items():
            if self.has(host, name, minute, device.name):
                self.gauge('device_' + name, value, **on)
        for fact, true in (('devices', 1), ('paths', len(states)), ('failed', tally['failed']), ('missing', missing),
                           ('degraded', tally['failed'] and tally['valid']), ('without', not tally['valid']),
                           ('MultipathFaultyPaths', tally['failed'] and tally['valid']), ('MultipathPathsMissing', missing),
                           ('MultipathNoValidPaths', not tally['valid'] and in_use), ('MultipathNoValidPathsUnused', not tally['valid'] and not in_use),
                           ('MultipathSinglePath', tally['valid'] == 1 and expected > 1 and not tally['standby'])):
            count[fact] += true if fact in ('paths', 'failed', 'missing') else bool(true)
        if device.kind == 'dm':
            self.gauge('device_active_group_priority', 10 if wrong else best, **on)
            self.gauge('device_best_group_priority', best, **on)
            groups = sorted({p.group for p in states})
            good = sorted({p.group for p, s in states.items() if s == 'valid'}) or groups
            active = good[-1] if wrong else good[0]
            for group in groups:
                self.gauge('path_group_state', 1, **on, group=group, state='active' if group == active else 'enabled')
            if self.before.get((host, device, 'group'), active) != active:
                self.counters[host, device, 'group_switches'] += 1
            self.before[host, device, 'group'] = active
            if not tally['valid']:
                self.counters[host, device, 'queueing_seconds'] += STEP if host.kind != 'iscsi' or minute < 45 else 0
                self.counters[host, device, 'queueing_timeouts'] += host.kind == 'iscsi' and minute == 45
        for path, state in states.items():
            self.path(host, device, path, state, minute, daemon)
        for action in ('path_failed', 'path_reinstated'):
            self.counter('device_path_events', self.counters[host, device, action], **on, action=action)
            if (host, device, action) in self.events:
                self.gauge('device_last_path_event_timestamp_seconds', self.events[host, device, action], **on, action=action)
        self.counter('device_path_io_errors', sum(self.errors(host, device, p, minute) for p in device.paths), **on)
        self.counter('device_repeated_path_failures', self.counters[host, device, 'repeated'], **on)
        if device.kind == 'dm':
            self.counter('device_path_faults', self.counters[host, device, 'path_failed'], **on)
            self.counter('device_group_switches', self.counters[host, device, 'group_switches'], **on)
            self.counter('device_table_loads', 1 + self.counters[host, device, 'path_failed'] // 3, **on)
            self.counter('device_queueing_seconds', self.counters[host, device, 'queueing_seconds'], **on)
            self.counter('device_queueing_timeouts', self.counters[host, device, 'queueing_timeouts'], **on)

    def errors(self, host, device, path, minute):
        bad = path is device.paths[0] and self.has(host, 'errors', minute, device.name)
        return self.counters[host, device, path] + (int(3 * (minute - 30)) if bad else 0)

    def path(self, host, device, path, state, minute, daemon):
        on, nvme = {'wwid': device.wwid, 'path': path.name}, device.kind == 'nvme'
        last = self.before.get((host, device, path), 'valid' if state == 'failed' and minute else state)
        self.before[host, device, path] = state
        if 'failed' in (state, last) and state != last:
            action = 'path_failed' if state == 'failed' else 'path_reinstated'
            self.counters[host, device, action] += 1
            self.counters[host, 'events'] += 1
            self.events[host, device, action] = self.time - 7
            if state == 'failed':
                self.counters[host, device, path] += 1
                self.counters[host, device, 'repeated'] += self.time - self.before.get((host, device, path, 'failed'), 0) <= 900
                self.before[host, device, path, 'failed'] = self.time
        self.gauge('path_info', 1, **on, devno=path.devno, hctl=path.hctl, transport=path.transport, group=path.group,
                   initiator_port=path.initiator, target=path.target, target_port=path.target_port)
        self.gauge('path_valid', int(state == 'valid'), **on)
        self.counter('path_failures', self.counters[host, device, path], **on)
        cut = state == 'failed' and self.has(host, 'down', minute, path.initiator, path.target_port)
        if nvme:
            self.gauge('path_device_state', 1, **on, state='connecting' if cut else 'live')
            self.gauge('path_ana_state', 1, **on, state=self.ana(host, path, minute))
            return
        self.gauge('path_device_state', 1, **on, state='transport-offline' if cut else 'running')
        self.counter('path_io_errors', self.errors(host, device, path, minute), **on)
        self.counter('path_io_timeouts', 0, **on)
        access = 'active/optimized' if path.priority == 50 else 'active/non-optimized'
        self.gauge('path_access_state', 1, **on, state=access)
        if daemon:
            pending = state == 'valid' and last == 'failed'
            self.gauge('path_checker_state', 1, **on, state='i/o pending' if pending else 'faulty' if state == 'failed' else 'ready')
            self.gauge('path_priority', path.priority, **on)
            self.gauge('path_marginal', int(self.has(host, 'marginal', minute, path.name)), **on)

    def transport(self, host, minute):
        parts = sorted({(p.initiator, p.target, p.target_port) for d in host.devices for p in d.paths
                        if not self.has(host, 'gone', minute, p.initiator, p.target_port)})
        up = {(i, t): not self.has(host, 'down', minute, i, t) for i, _, t in parts}
        if host.kind == 'iscsi':
            for number, (initiator, target, port) in enumerate(parts, 1):
                on = {'session': f'session{number}', 'target': target, 'target_port': port, 'initiator_port': initiator}
                self.gauge('iscsi_session_up', int(up[initiator, port]), **on)
                members = sum((p.initiator, p.target, p.target_port) == (initiator, target, port) for d in host.devices for p in d.paths)
                self.gauge('iscsi_session_paths', members, **on)
                self.gauge('iscsi_session_state', 1, **on, state='LOGGED_IN' if up[initiator, port] else 'FAILED')
                self.counters[host, port, 'failures'] += self.before.get((host, port, 'up'), True) and not up[initiator, port]
                self.before[host, port, 'up'] = up[initiator, port]
                del on['session']
                self.counter('iscsi_session_failures', self.counters[host, port, 'failures'], **on)
            if self.has(host, 'empty-session', minute):
                on = {'session': 'session9', 'target': parts[0][1], 'target_port': '192.0.2.99:3260', 'initiator_port': 'eth1'}
                self.gauge('iscsi_session_up', 1, **on)
                self.gauge('iscsi_session_paths', 0, **on)
                self.gauge('iscsi_session_state', 1, **on, state='LOGGED_IN')
            reached = {i: any(u for (j, _), u in up.items() if j == i) for i, _ in up}
            for network, ok in sorted(reached.items()):
                self.gauge('iscsi_bond_network_up', int(ok), bond='storage', network=network)
            self.gauge('iscsi_bond_networks', len(reached), bond='storage')
            self.gauge('iscsi_bond_networks_up', sum(reached.values()), bond='storage')
        elif host.kind == 'fc':
            for initiator in sorted({i for i, _ in up}):
                self.gauge('fc_host_port_up', int(not self.has(host, 'down', minute, initiator)), initiator_port=initiator)
            for (initiator, port), ok in up.items():
                on = {'initiator_port': initiator, 'target_port': port}
                self.gauge('fc_remote_port_up', int(ok), **on)
                self.gauge('fc_remote_port_state', 1, **on, state='Online' if ok else 'Not Present')
        else:
            for number, (initiator, target, port) in enumerate(parts):
                on, ok = {'controller': f'nvme{number}', 'target': target, 'target_port': port, 'initiator_port': initiator}, up[initiator, port]
                self.gauge('nvme_controller_up', int(ok), **on)
                self.gauge('nvme_controller_state', 1, **on, state='live' if ok else 'connecting')
                self.gauge('nvme_controller_info', 1, **on, ctrl_loss_tmo='600', fast_io_fail_tmo='off', reconnect_delay='10')
                self.counters[host, port, 'failures'] += self.before.get((host, port, 'up'), True) and not ok
                self.before[host, port, 'up'] = ok
                del on['controller']
                self.counter('nvme_controller_failures', self.counters[host, port, 'failures'], **on)
            self.gauge('nvme_subsystem_info', 1, target=parts[0][1], iopolicy='numa')
            self.gauge('nvme_unreachable_namespaces', 2 * self.has(host, 'unreachable', minute), target=parts[0][1])

    def exporter(self, host, minute, daemon):
        events, noise = self.counters[host, 'events'], sum(map(ord, host.name)) % 7
        self.gauge('exporter_build_info', 1, version='0.1.0', revision='4f2c9d1', rustversion='1.89.0')
        # A source without permission or reason reads nothing. A source that once read keeps its
        # time.
        down = {'multipathd'} if not daemon or self.has(host, 'blocked-daemon', minute) else set()
        if self.has(host, 'unreadable', minute):
            down.add('dm')
        for source in SOURCES:
            self.gauge('exporter_source_up', int(source not in down), source=source)
            if source not in down:
                self.before[host, source] = self.time - 2 - noise / 2 if source != 'uevent' else self.events.get(host, START - 7200)
            if (host, source) in self.before:
                self.gauge('exporter_source_last_success_timestamp_seconds', self.before[host, source], source=source)
                self.gauge('exporter_source_duration_seconds', round(0.002 + noise / 900 + len(source) / 2000, 6), source=source)
            self.counter('exporter_errors', int(max(0, minute - 40) * 2) if source in down and source == 'dm' else 0, source=source)
        self.gauge('exporter_kernel_status', int('dm' not in down))
        self.gauge('exporter_resync_interval_seconds', 30)
        self.gauge('exporter_reread_interval_seconds', 5)
        for action in ('add', 'bind', 'change', 'move', 'offline', 'online', 'remove', 'unbind'):
            self.counter('exporter_uevents', 40 + 3 * events if action == 'change' else 12 if action == 'add' else 0, action=action)
        self.counter('exporter_uevent_overflows', 0)
        for reason in ('start', 'timer', 'overflow', 'signal'):
            self.counter('exporter_resyncs', {'start': 1, 'timer': 500 + int(minute * 2)}.get(reason, 0), reason=reason)
        self.counter('exporter_resync_corrections', 0)
        family = 'multipath_exporter_event_to_metric_seconds'
        for index, le in enumerate(BUCKETS):
            share = (0, .1, .5, .8, .95, .98, 1, 1, 1, 1, 1, 1)[index]
            self.put('histogram', family, host, self.time, int(share * (52 + 3 * events)), '_bucket', le=le)
        self.put('histogram', family, host, self.time, round(.0035 * (52 + 3 * events), 4), '_sum')
        self.put('histogram', family, host, self.time, 52 + 3 * events, '_count')
        self.gauge('exporter_memory_last_write_successful', int(not self.has(host, 'no-memory', minute)))
        self.gauge('exporter_config_last_reload_successful', 1)
        self.gauge('exporter_config_last_reload_success_timestamp_seconds', START - 86400)
        self.counter('exporter_scrapes', 400 + int(minute * 60 / STEP))
        for code in '200', '400', '401', '404', '405', '421', '429', '431', '500', '503':
            self.counter('exporter_http_responses', 400 + int(minute * 60 / STEP) if code == '200' else 0, code=code)
        for reason in 'evicted', 'slow', 'handshake':
            self.counter('exporter_http_connections_closed', 0, reason=reason)
        start = START + 40 * 60 if self.has(host, 'restarted', minute) else START - 86400
        for name, value in (('resident_memory_bytes', 9e6 + noise * 4e5 + minute * 900), ('virtual_memory_bytes', 3.1e7),
                            ('start_time_seconds', start), ('open_fds', 14), ('max_fds', 1024), ('threads', 6)):
            self.put('gauge', 'process_' + name, host, self.time, value)
        self.put('counter', 'process_cpu_seconds', host, self.time, round((20 if start < START else -.8) + minute * (.02 + noise / 400), 3), '_total')

    def alerts(self, host, time):
        """Returns the alerts that rules would give for this host: enough to fill a table."""
        minute = (time - START) / 60

        def fire(alert, severity, **labels):
            self.put('gauge', 'ALERTS', host, time, 1, alertname=alert, alertstate='firing', severity=severity, **labels)
        if self.has(host, 'vanished', minute):
            return None
        if not self.up(host, minute):
            return fire('MultipathExporterDown', 'warning')
        if not self.reports(host, minute):
            return None
        for device in host.devices:
            tally = collections.Counter(self.state(host, device, p, minute) for p in device.paths)
            if reason := self.lost(host, device, minute):
                used = reason == 'in_use'
                fire('MultipathDeviceInUseLost' if used else 'MultipathDeviceLost', 'critical' if used else 'warning', wwid=device.wwid)
            elif not tally['valid']:
                fire('MultipathNoValidPaths', 'critical', wwid=device.wwid)
            elif tally['failed']:
                fire('MultipathFaultyPaths', 'warning', wwid=device.wwid)
        if time - self.before.get((host, 'recovery'), 0) < 600:
            fire('MultipathPathsRecovered', 'info')
        if self.daemonless(host, minute):
            fire('MultipathDaemonDown', 'warning')
        return None

    def up(self, host, minute):
        return not self.has(host, 'exporter', minute) and not self.has(host, 'vanished', minute)

    def reports(self, host, minute):
        return self.up(host, minute) and not self.has(host, 'foreign', minute)

    def daemonless(self, host, minute):
        return self.has(host, 'no-daemon', minute) and any(d.kind == 'dm' for d in host.devices)

    # -- the hour ----------------------------------------------------------------------------------

    def run(self):
        held, now = collections.Counter(), collections.Counter()
        for time in range(START, END + 1, STEP):
            minute = (time - START) / 60
            for number, host in enumerate(self.hosts):
                up, reports = self.up(host, minute), self.reports(host, minute)
                if not self.has(host, 'vanished', minute):
                    self.put('gauge', 'up', host, time, int(up))
                self.put('gauge', 'up', host, time, int(number % 2), job='node', instance=host.instance.replace('10056', '9100'))
                self.put('gauge', 'scrape_duration_seconds', host, time, round(.004 + number / 2000, 4) if up else 10)
                self.alerts(host, time)
                if reports:
                    self.before[host, 'page'] = time, self.page(host, time)
                if time == END:
                    gone = self.has(host, 'vanished', minute)
                    now.update(hosts=int(not gone), vanished=int(gone), down=int(not reports), MultipathExporterDown=int(not up and not gone), MultipathDaemonDown=int(reports and self.daemonless(host, minute)))
                    last, count = self.before[host, 'page']
                    held.update(count if time - last < 300 else ())  # as the rules do, for five minutes
                    now.update(count if reports else ())
        fires = collections.Counter(dict(labels)['severity'] for (_, labels), points in self.series.get('ALERTS', {}).items() if points[-1][0] == END)
        nobody = now['down'] == now['hosts']
        facts = {k: None if nobody else now[k] for k in ('without', 'degraded', 'failed', 'devices', 'paths', 'lost', 'trouble')}
        alerts = {k: (v if k.startswith('MultipathExporterDown') else None if nobody else v) for k, v in
                  {**now, **held}.items() if k.startswith('Multipath')}
        return {**facts, 'hosts': now['hosts'], 'down': now['down'], 'listed': now['hosts'] + now['vanished'], 'instances': len({host.instance for host in self.hosts}), 'clusters': sorted({host.cluster for host in self.hosts} - {None}),
                'just_silent': held['devices'] != now['devices'], 'alerts': alerts, 'critical': fires['critical'], 'warning': fires['warning']}

    def write(self, file):
        for family in sorted(self.series):
            file.write(f'# TYPE {family} {self.types[family]}\n')
            for (suffix, labels), points in self.series[family].items():
                text = ','.join('{}="{}"'.format(k, v) for k, v in labels)
                file.writelines(f'{family}{suffix}{{{text}}} {value} {time}\n' for time, value in points)
        file.write('# EOF\n')


def main():
    scenario, out, facts = sys.argv[1:]
    fleet = Fleet(scenario)
    true = fleet.run()
    with open(out, 'w') as file:
        fleet.write(file)
    with open(facts, 'w') as file:
        json.dump(true, file)


if __name__ == '__main__':
    main()
