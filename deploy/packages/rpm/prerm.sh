# Removed, not upgraded.
if [ "$1" -eq 0 ] && command -v systemctl >/dev/null; then
    if [ -d /run/systemd/system ]; then
        # Where systemd listens, the next scrape would start again what is being removed.
        systemctl stop multipath-exporter.socket 2>/dev/null || :
        systemctl stop multipath-exporter.service || :
    fi
    systemctl --no-reload disable multipath-exporter.service || :
    # RPM takes the options away that go with the socket: systemd would hold the port of what is installed next.
    systemctl --no-reload disable multipath-exporter.socket 2>/dev/null || :
fi
