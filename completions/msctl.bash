# bash completion for msctl. Written from the command table by 'make documents'. Do not edit.
# Reads the line up to the cursor. words: the whole words, without their quotes; cur: the one at the cursor; head: what of
# it stands before the part that readline replaces; open: the quote in which the cursor is.
_msctl_read() {
  local line=${COMP_LINE:0:COMP_POINT} char i kept=0 within=
  for ((i = 0; i < ${#line}; i++)); do
    char=${line:i:1}
    if [[ $open == \' ]]; then
      if [[ $char == \' ]]; then open=; else cur+=$char; fi
    elif [[ $open == \" ]]; then
      case $char in
        \") open= ;;
        \\) case ${line:i+1:1} in
            [\"\\\`$]) i=$((i + 1)); cur+=${line:i:1} ;;
            *) cur+=$char ;;
          esac ;;
        *) cur+=$char ;;
      esac
    else
      case $char in
        [[:space:]]) if [[ $within ]]; then words+=("$cur"); fi; cur= kept=0 within=; continue ;;
        \\) i=$((i + 1)); cur+=${line:i:1} ;;
        [\'\"]) open=$char kept=${#cur} ;;
        *) cur+=$char; if [[ $COMP_WORDBREAKS == *"$char"* ]]; then kept=${#cur}; fi ;;
      esac
      within=1
    fi
  done
  head=${cur:0:kept}
}
# What is left of each name that begins with cur, compared by bytes.
_msctl_match() {
  local LC_ALL=C name
  for name in "$@"; do
    name=$base$name
    if [ "${name:0:${#cur}}" = "$cur" ] && [ "${name:0:${#head}}" = "$head" ]; then tails+=("${name:${#head}}"); fi
  done
}
# Offers names, quoted for where the cursor is.
_msctl_offer() {
  local tail tails=() backslash=\\ char
  _msctl_match "$@"
  for tail in "${tails[@]}"; do
    case $open in
      \') tail=${tail//"'"/"'\''"} ;;
      \")
        # Between double quotes nothing takes its meaning from an exclamation mark.
        if [[ $tail == *!* ]]; then continue; fi
        for char in "$backslash" '$' '`' '"'; do tail=${tail//"$char"/"$backslash$char"}; done ;;
      *) printf -v tail %q "$tail" ;;
    esac
    COMPREPLY+=("$tail")
  done
}
_msctl_live() {
  local name names=()
  while IFS= read -r name; do
    # Where options may stand, it would be one.
    if [[ $name != -* || $dashes || $base ]]; then names+=("$name"); fi
  done < <(msctl completion --list "$1" 2>/dev/null)
  _msctl_offer "${names[@]}"
}
_msctl() {
  local words=() cur= head= open= base= prev verb= dashes= word
  COMPREPLY=()
  _msctl_read
  for word in "${words[@]:1}"; do
    case $word in
      --) dashes=1 ;;
      -*) ;;
      *) [[ $verb ]] || verb=$word ;;
    esac
  done
  prev=${words[${#words[@]}-1]}
  if [[ $dashes ]]; then
    prev=
  elif [[ $cur == --*=* ]]; then
    prev=${cur%%=*} base=${cur%%=*}=
  fi
  case $verb in
    '') _msctl_offer call publish consume register discover completion help --help --version ;;
    help) _msctl_offer call publish consume register discover completion ;;
    call)
      case $prev in
        --color) _msctl_offer auto always never; return ;;
        -d|--data|-H|--header|--basic|--digest|--bearer|--cookie-jar|-t|--timeout|--attempt-timeout|--connect-timeout|--retry|--retry-on|--unix-socket|--cacert|--cert|--key|--pass|-o|--output|--ok|-P|--parallel|--failed-to|--rate|--tag|--dc|--near|--peer|--port-name|--consul-addr|--consul-token-file|--partition) return ;;
      esac
      if [[ $cur == -* && ! $dashes ]]; then
        _msctl_offer --data --form --header --basic --digest --bearer --follow --cookie-jar --timeout --attempt-timeout --connect-timeout --retry --retry-on --idempotency-key --unix-socket --cacert --cert --key --pass --insecure --envelope --output --as-curl --ok --no-fail --each --parallel --keep-going --failed-to --all --rate --stats --tag --dc --near --peer --port-name --stale --consistent --consul-addr --consul-token-file --partition --color --quiet --verbose --json-errors --help
      else
        _msctl_offer GET POST PUT PATCH DELETE HEAD OPTIONS QUERY
        _msctl_live service
      fi ;;
    publish)
      case $prev in
        --exchange-type) _msctl_offer direct fanout topic headers; return ;;
        --color) _msctl_offer auto always never; return ;;
        --content-type|--content-encoding|-H|--header|--priority|--correlation-id|--reply-to|--ttl|--message-id|--type|--user-id|--app-id|-x|--exchange|-k|--routing-key|--rate|--speed|--window|--confirm-timeout|--failed-to|--reply-timeout|--broker|--password-file|--wait|--reconnect-for|--queue-argument) return ;;
      esac
      if [[ $cur == -* && ! $dashes ]]; then
        _msctl_offer --text --lines --raw --envelope --content-type --content-encoding --header --priority --correlation-id --reply-to --ttl --message-id --type --user-id --app-id --transient --exchange --exchange-type --routing-key --no-mandatory --rate --speed --window --confirm-timeout --tee --failed-to --dry-run --reply --reply-timeout --broker --password-file --wait --reconnect-for --passive --queue-argument --color --quiet --verbose --json-errors --help
      else
        _msctl_live queue
      fi ;;
    consume)
      case $prev in
        --on-error) _msctl_offer requeue reject stop; return ;;
        --color) _msctl_offer auto always never; return ;;
        -n|--count|--idle|--for|--exec|--parallel|--batch|--batch-time|--reject-exit|--through|--max-attempts|-x|--exchange|-b|--bind|--bind-argument|--expires|--resume|--offset|--sample|--consumer-argument|--rate|--prefetch|--ready-file|--broker|--password-file|--wait|--reconnect-for|--queue-argument) return ;;
      esac
      if [[ $cur == -* && ! $dashes ]]; then
        _msctl_offer --count --idle --drain --for --require --envelope --origin --raw --null --exec --parallel --batch --batch-time --on-error --reject-exit --reply --through --restart --max-attempts --clean-env --peek --exchange --bind --bind-argument --exclusive --expires --stream --resume --offset --sample --stat --consumer-argument --rate --prefetch --ready-file --broker --password-file --wait --reconnect-for --passive --queue-argument --color --quiet --verbose --json-errors --help
      else
        _msctl_live queue
      fi ;;
    register)
      case $prev in
        --color) _msctl_offer auto always never; return ;;
        -p|--port|--address|--id|--tag|--meta|--weight|-f|--file|--drain|--ready-file|-c|--check|--interval|--check-timeout|--deregister-after|--consul-addr|--consul-token-file|--partition) return ;;
      esac
      [[ ! $dashes ]] || return
      if [[ $cur == -* && ! $dashes ]]; then
        _msctl_offer --port --address --id --tag --meta --weight --file --remove --dry-run --wait --drain --ready-file --check --interval --check-timeout --deregister-after --consul-addr --consul-token-file --partition --color --quiet --verbose --json-errors --help
      else
        _msctl_live service
      fi ;;
    discover)
      case $prev in
        -s|--status) _msctl_offer passing warning critical any; return ;;
        -o|--output) _msctl_offer json url hostport env table nginx; return ;;
        --color) _msctl_offer auto always never; return ;;
        --tag|--filter|--near|--dc|--peer|--port-name|--listen|-w|--wait|--min|--exec|--consul-addr|--consul-token-file|--partition) return ;;
      esac
      if [[ $cur == -* && ! $dashes ]]; then
        _msctl_offer --status --one --tag --filter --near --dc --peer --port-name --stale --consistent --output --listen --wait --min --watch --exec --clean-env --consul-addr --consul-token-file --partition --color --quiet --verbose --json-errors --help
      else
        _msctl_live service
      fi ;;
    completion)
      case $prev in
        --list) _msctl_offer service queue; return ;;
        --color) _msctl_offer auto always never; return ;;
        --consul-addr|--consul-token-file|--partition|--broker) return ;;
      esac
      if [[ $cur == -* && ! $dashes ]]; then
        _msctl_offer --list --consul-addr --consul-token-file --partition --broker --color --quiet --verbose --json-errors --help
      else
        _msctl_offer bash zsh fish
      fi ;;
  esac
}
complete -o default -o bashdefault -F _msctl msctl
