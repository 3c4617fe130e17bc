# What `shop test` has seen. $answers: the clients' envelopes; $orders, $payments, $notices: what the gateway answers in the
# end; $gateway: its log; $spans: the steps that the services have noted.

def doubles: group_by(.) | map(select(length > 1)) | length;
def table: to_entries | map("\(.key) \(.value)") | join(", ") | if . == "" then "none" else . end;
def tally(f): group_by(f) | map({key: (.[0] | f | tostring), value: length}) | from_entries;

[$answers[] | select(.status == 201) | .body.order] as $accepted
| ($orders[0].orders // [] | map(.order)) as $stored
| ($payments[0].payments // [] | map(.order)) as $paid
| ($notices[0].notices // [] | map(.order)) as $noticed
# An order is lost where it was accepted or stored, and no payment or no notice came of it.
| ([$accepted[], $stored[]] | unique) as $expected
| (($expected - $paid) + ($expected - $noticed) + ($expected - $stored) | unique | length) as $lost
# Twice accepted under one number is one client's order in place of two.
| (($paid | doubles) + ($noticed | doubles) + ($accepted | doubles)) as $doubled

# A trace is whole where the gateway has seen the request that the order came from, the user was looked up and the payment made
# for that very step, and the notice was written in the same trace.
| ($gateway | map(.traceparent | split("-") | {key: "\(.[1])-\(.[2])", value: true}) | from_entries) as $entered
| ($spans | group_by(.trace) | map({key: .[0].trace, value: .}) | from_entries) as $traces
| [ $spans[]
    | select(.service == "order-service" and $entered["\(.trace)-\(.parent)"]) as $order
    | $traces[$order.trace] as $steps
    | select(any($steps[]; .service == "user-service" and .parent == $order.span)
        and any($steps[]; .what == "charge" and .order == $order.order and .parent == $order.span)
        and any($steps[]; .what == "write a notice" and .order == $order.order))
    | $order.order ] as $whole
| ($expected - $whole | length) as $broken

| ([$gateway[] | select(.status >= 400)] | tally(.status)) as $failed
| ($faults | split("\n") | map(select(. != "") | split(" ")) | map({kind: .[0], name: (.[1] | sub("-[0-9]$"; ""))})) as $made

| "orders sent       \($sent)",
  "orders accepted   \($accepted | length)",
  "payments          \($paid | length)",
  "notices           \($noticed | length)",
  "lost              \($lost)",
  "doubled           \($doubled)",
  "broken traces     \($broken)",
  "failed requests   \($failed | table) (each was sent again)",
  "heard again       \([$spans[] | select(.what == "hear again")] | length)",
  "killed            \([$made[] | select(.kind | IN("kill", "crash"))] | tally(.name) | table)",
  "restarted         \([$made[] | select(.kind | IN("kill", "crash") | not)] | tally(.name) | table)",
  (if $lost == 0 and $doubled == 0 and $broken == 0 and ($accepted | length) == $sent then "the shop kept its word" else "the shop did NOT keep its word" end)
