# Whether it is enabled is for the distribution's presets to say, and nothing is started that was not running.
if [ "$1" -eq 1 ] && command -v systemctl >/dev/null; then
    systemctl --no-reload preset multipath-exporter.service || :
fi
[ ! -d /run/systemd/system ] || systemctl daemon-reload || :
