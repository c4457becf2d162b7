// Settings that may differ between two installations of the alerts. README.md describes how to
// override them.
{
  _config+:: {
    // Label matchers that every series must match, such as 'env="prod"'. If empty, all series
    // match.
    selector: '',

    // The exporter's targets. MultipathExporterDown looks at these. An example in prometheus.yml
    // calls the job `multipath`, and the operator's PodMonitor calls it `multipath-exporter`.
    jobSelector: 'job=~".*multipath.*"',

    // The label that tells clusters apart. The dashboard and alertmanager.yml call it `cluster`, so
    // change them as well.
    clusterLabel: 'cluster',

    // The address of an alert's runbook. %s is the alert's name. The exporter serves the runbooks
    // at http://HOST:10056/runbooks/%s.
    runbookURL: 'https://github.com/multipath-exporter/multipath_exporter/blob/main/alerts/runbooks/%s.md',

    // Names of alerts that are left out.
    disabled: [],

    // The reason for each severity and duration is beside its alert in mixin.libsonnet.
    severities: {
      MultipathFaultyPaths: 'warning',
      MultipathNoValidPaths: 'critical',
      MultipathNoValidPathsUnused: 'warning',
      MultipathPathsRecovered: 'info',
      MultipathDeviceInUseLost: 'critical',
      MultipathDeviceLost: 'warning',
      MultipathPathsMissing: 'warning',
      MultipathSinglePath: 'critical',
      MultipathNotRedundant: 'warning',
      MultipathNeverRedundant: 'info',
      MultipathFewerPathsThanOtherHosts: 'info',
      MultipathPathFlapping: 'warning',
      MultipathPathMarginal: 'warning',
      MultipathPathErrors: 'warning',
      MultipathAllPathsBlocked: 'critical',
      MultipathIoStalled: 'critical',
      MultipathQueueingWithoutPaths: 'critical',
      MultipathDeviceSuspended: 'critical',
      MultipathNonOptimizedPath: 'warning',
      MultipathStateDisagreement: 'warning',
      MultipathSizeMismatch: 'warning',
      MultipathReadOnlyMismatch: 'warning',
      MultipathWwidMismatch: 'critical',
      MultipathLunConflict: 'critical',
      MultipathLunMismatch: 'warning',
      MultipathStrayPath: 'warning',
      MultipathDiskUsedDirectly: 'warning',
      MultipathNotAssembled: 'warning',
      MultipathIscsiSessionDown: 'warning',
      MultipathIscsiSessionFlapping: 'warning',
      MultipathSessionWithoutPath: 'warning',
      MultipathIscsiBondNetworkDown: 'warning',
      MultipathIscsiBondDown: 'critical',
      MultipathFcHostPortDown: 'warning',
      MultipathFcRemotePortDown: 'warning',
      MultipathNvmeControllerDown: 'warning',
      MultipathNvmeNamespaceUnreachable: 'warning',
      MultipathDaemonDown: 'warning',
      MultipathDaemonBlocked: 'warning',
      MultipathExporterDown: 'warning',
      MultipathExporterStale: 'warning',
      MultipathExporterErrors: 'warning',
    },

    // How long a condition must last before the alert fires. '0s' means at once.
    durations: {
      MultipathFaultyPaths: '0s',
      MultipathNoValidPaths: '0s',
      MultipathNoValidPathsStandby: '1m',  // MultipathNoValidPaths of a device with standby paths
      MultipathNoValidPathsUnused: '1m',
      MultipathPathsRecovered: '0s',
      MultipathDeviceInUseLost: '0s',
      MultipathDeviceLost: '0s',
      MultipathPathsMissing: '10m',
      MultipathSinglePath: '10m',
      MultipathNotRedundant: '10m',
      MultipathNeverRedundant: '1h',
      MultipathFewerPathsThanOtherHosts: '1h',
      MultipathPathFlapping: '0s',
      MultipathPathMarginal: '5m',
      MultipathPathErrors: '15m',
      MultipathAllPathsBlocked: '1m',
      MultipathIoStalled: '0s',
      MultipathQueueingWithoutPaths: '2m',
      MultipathDeviceSuspended: '5m',
      MultipathNonOptimizedPath: '15m',
      MultipathStateDisagreement: '5m',
      MultipathSizeMismatch: '5m',
      MultipathReadOnlyMismatch: '5m',
      MultipathWwidMismatch: '0s',
      MultipathLunConflict: '5m',
      MultipathLunMismatch: '5m',
      MultipathStrayPath: '10m',
      MultipathDiskUsedDirectly: '5m',
      MultipathNotAssembled: '15m',
      MultipathIscsiSessionDown: '2m',
      MultipathIscsiSessionFlapping: '0s',
      MultipathSessionWithoutPath: '10m',
      MultipathIscsiBondNetworkDown: '2m',
      MultipathIscsiBondDown: '1m',
      MultipathFcHostPortDown: '2m',
      MultipathFcRemotePortDown: '2m',
      MultipathNvmeControllerDown: '2m',
      MultipathNvmeNamespaceUnreachable: '5m',
      MultipathDaemonDown: '5m',
      MultipathDaemonBlocked: '5m',
      MultipathExporterDown: '5m',
      MultipathExporterStale: '5m',
      MultipathExporterErrors: '15m',
    },
  },
}
