# Removed, not upgraded.
if [ "$1" -eq 0 ] && command -v systemctl >/dev/null; then
    [ ! -d /run/systemd/system ] || systemctl stop multipath-exporter.service || :
    systemctl --no-reload disable multipath-exporter.service || :
fi
