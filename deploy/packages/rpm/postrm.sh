if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    # Upgraded: what runs is started anew, what does not stays as it is.
    [ "$1" -eq 0 ] || systemctl try-restart multipath-exporter.service || :
fi
# The package's own directories, which cargo-generate-rpm does not let it own.
if [ "$1" -eq 0 ]; then
    cd /usr/share || exit 0
    rmdir multipath-exporter/alerts/runbooks multipath-exporter/alerts multipath-exporter/dashboards \
        multipath-exporter/systemd multipath-exporter doc/multipath-exporter licenses/multipath-exporter 2>/dev/null || :
fi
