_multipath_exporter() {
    local i cur prev opts cmd
    COMPREPLY=()
    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
        cur="$2"
    else
        cur="${COMP_WORDS[COMP_CWORD]}"
    fi
    prev="$3"
    cmd=""
    opts=""

    for i in "${COMP_WORDS[@]:0:COMP_CWORD}"
    do
        case "${cmd},${i}" in
            ",$1")
                cmd="multipath_exporter"
                ;;
            *)
                ;;
        esac
    done

    case "${cmd}" in
        multipath_exporter)
            opts="-h -V --web.listen-address --web.systemd-socket --web.config.file --web.telemetry-path --web.max-requests --web.address-share --web.allowed-host --web.no-status-page --path.sysfs --path.procfs --path.udev.data --path.capture --multipathd.socket --multipathd.timeout --resync.interval --reread.interval --no-collector.dm --collector.dm --no-collector.nvme --collector.nvme --no-collector.iscsi --collector.iscsi --no-collector.fc --collector.fc --no-collector.multipathd --collector.multipathd --no-collector.paths --collector.paths --collector.paths.unhealthy-only --config.file --memory.file --memory.window --config.check --oneshot --capture --log.level --log.format --help --version"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 1 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --web.listen-address)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --web.config.file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --web.telemetry-path)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --web.max-requests)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --web.address-share)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --web.allowed-host)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --path.sysfs)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --path.procfs)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --path.udev.data)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --path.capture)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --multipathd.socket)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --multipathd.timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --resync.interval)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --reread.interval)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --config.file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --memory.file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --memory.window)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --capture)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --log.level)
                    COMPREPLY=($(compgen -W "debug info warn error" -- "${cur}"))
                    return 0
                    ;;
                --log.format)
                    COMPREPLY=($(compgen -W "logfmt json" -- "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
    esac
}

if [[ "${BASH_VERSINFO[0]}" -eq 4 && "${BASH_VERSINFO[1]}" -ge 4 || "${BASH_VERSINFO[0]}" -gt 4 ]]; then
    complete -F _multipath_exporter -o nosort -o bashdefault -o default multipath_exporter
else
    complete -F _multipath_exporter -o bashdefault -o default multipath_exporter
fi
