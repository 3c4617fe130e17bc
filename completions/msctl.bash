# bash completion for msctl. Written from the command table by 'make documents'. Do not edit.
_msctl() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= i
  COMPREPLY=()
  # bash takes '--name=value' for three words.
  if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${COMP_WORDS[i]} in
      --) return ;;
      -*) ;;
      *) [[ $verb ]] || verb=${COMP_WORDS[i]} ;;
    esac
  done
  case $verb in
    '') COMPREPLY=($(compgen -W 'call publish consume register discover completion help --help --version' -- "$cur")) ;;
    help) COMPREPLY=($(compgen -W 'call publish consume register discover completion' -- "$cur")) ;;
    call)
      case $prev in
        -d|--data) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --unix-socket) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --cacert) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        -o|--output) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --consul-token-file) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --color) COMPREPLY=($(compgen -W 'auto always never' -- "$cur")); return ;;
        -H|--header|--basic|--bearer|-t|--timeout|--attempt-timeout|--connect-timeout|--retry|-P|--parallel|--tag|--dc|--near|--peer|--port-name|--consul-addr|--partition) return ;;
      esac
      if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W '--data --form --header --basic --bearer --follow --timeout --attempt-timeout --connect-timeout --retry --idempotency-key --unix-socket --cacert --insecure --envelope --output --as-curl --no-fail --each --parallel --keep-going --all --stats --tag --dc --near --peer --port-name --stale --consistent --consul-addr --consul-token-file --partition --color --quiet --verbose --json-errors --help' -- "$cur"))
      else
        COMPREPLY=($(compgen -W 'GET POST PUT PATCH DELETE HEAD OPTIONS' -- "$cur"))
        COMPREPLY+=($(compgen -W "$(msctl completion --list service 2>/dev/null)" -- "$cur"))
      fi ;;
    publish)
      case $prev in
        --failed-to) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --password-file) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --color) COMPREPLY=($(compgen -W 'auto always never' -- "$cur")); return ;;
        --content-type|--content-encoding|-H|--header|--priority|--correlation-id|--reply-to|--ttl|--message-id|--type|--user-id|--app-id|-x|--exchange|-k|--routing-key|--window|--confirm-timeout|--reply-timeout|--broker|--wait|--reconnect-for|--queue-argument) return ;;
      esac
      if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W '--text --lines --raw --envelope --content-type --content-encoding --header --priority --correlation-id --reply-to --ttl --message-id --type --user-id --app-id --transient --exchange --routing-key --window --confirm-timeout --tee --failed-to --dry-run --reply --reply-timeout --broker --password-file --wait --reconnect-for --passive --queue-argument --color --quiet --verbose --json-errors --help' -- "$cur"))
      else
        COMPREPLY=($(compgen -W "$(msctl completion --list queue 2>/dev/null)" -- "$cur"))
      fi ;;
    consume)
      case $prev in
        --on-error) COMPREPLY=($(compgen -W 'requeue reject stop' -- "$cur")); return ;;
        --password-file) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --color) COMPREPLY=($(compgen -W 'auto always never' -- "$cur")); return ;;
        -n|--count|--idle|--for|--exec|--parallel|--through|--max-attempts|-x|--exchange|-b|--bind|--offset|--prefetch|--broker|--wait|--reconnect-for|--queue-argument) return ;;
      esac
      if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W '--count --idle --drain --for --require --envelope --raw --null --exec --parallel --on-error --through --restart --max-attempts --clean-env --peek --exchange --bind --stream --offset --prefetch --broker --password-file --wait --reconnect-for --passive --queue-argument --color --quiet --verbose --json-errors --help' -- "$cur"))
      else
        COMPREPLY=($(compgen -W "$(msctl completion --list queue 2>/dev/null)" -- "$cur"))
      fi ;;
    register)
      case $prev in
        -f|--file) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --consul-token-file) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --color) COMPREPLY=($(compgen -W 'auto always never' -- "$cur")); return ;;
        -p|--port|--address|--id|--tag|--meta|--weight|--drain|-c|--check|--interval|--check-timeout|--deregister-after|--consul-addr|--partition) return ;;
      esac
      if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W '--port --address --id --tag --meta --weight --file --remove --dry-run --wait --drain --check --interval --check-timeout --deregister-after --consul-addr --consul-token-file --partition --color --quiet --verbose --json-errors --help' -- "$cur"))
      else
        COMPREPLY=($(compgen -W "$(msctl completion --list service 2>/dev/null)" -- "$cur"))
      fi ;;
    discover)
      case $prev in
        -s|--status) COMPREPLY=($(compgen -W 'passing warning critical any' -- "$cur")); return ;;
        -o|--output) COMPREPLY=($(compgen -W 'json url hostport env table nginx' -- "$cur")); return ;;
        --consul-token-file) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --color) COMPREPLY=($(compgen -W 'auto always never' -- "$cur")); return ;;
        --tag|--filter|--near|--dc|--peer|--port-name|--listen|-w|--wait|--min|--exec|--consul-addr|--partition) return ;;
      esac
      if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W '--status --one --tag --filter --near --dc --peer --port-name --stale --consistent --output --listen --wait --min --watch --exec --clean-env --consul-addr --consul-token-file --partition --color --quiet --verbose --json-errors --help' -- "$cur"))
      else
        COMPREPLY=($(compgen -W "$(msctl completion --list service 2>/dev/null)" -- "$cur"))
      fi ;;
    completion)
      case $prev in
        --list) COMPREPLY=($(compgen -W 'service queue' -- "$cur")); return ;;
        --consul-token-file) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --color) COMPREPLY=($(compgen -W 'auto always never' -- "$cur")); return ;;
        --consul-addr|--partition|--broker) return ;;
      esac
      if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W '--list --consul-addr --consul-token-file --partition --broker --color --quiet --verbose --json-errors --help' -- "$cur"))
      else
        COMPREPLY=($(compgen -W 'bash zsh fish' -- "$cur"))
      fi ;;
  esac
}
complete -o default -o bashdefault -F _msctl msctl
