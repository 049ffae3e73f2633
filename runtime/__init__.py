"""The supervisor's process, and everything that talks to it. Importing this package loads nothing else.

config/         what a person wrote, checked in a short-lived child, handed over as frozen values
router.py       pure: (turn, routes, provider states, now) -> ordered candidates, or NoRoute
stickiness.py   pure: which provider a session stays with, and for how long
windows.py      context windows by vendor and model family, as data
taskqueue.py    pure: lanes, fairness, slots, limits: what starts now, or when to look again
lanes.py        pure: where a turn waits: in its lane, for a time, behind a gate, to run alone
slots.py        pure: who runs, by worker generation, and what is reserved
rates.py        pure: requests and tokens a minute, estimated before, corrected after, tightened by headers
adaptive.py     pure: how many turns a local server gets at once, found out from its first token times
retry.py        pure: (error, what was tried, candidates as they stand) -> resend, send elsewhere, park, or give up
breakers.py     pure: who takes no turns for a while because too many failed there, and which turn probes
restarts.py     pure: restart window, back-off, give up
kept.py         frames kept for clients that come back, and the outcomes of finished turns
records.py      what the supervisor remembers: one record a turn, one desk a provider
refusals.py     what a client's words must be, and the ERROR frame that refuses them
outbox.py       what one read makes leaves in one send
process.py      open_worker: one OS process, its channel, only its own key
ledger.py       every live turn and its one outcome: who watches it, what is kept and journalled of it
floor.py        where turns wait and run: desks, queues, slots, out to the workers
attempts.py     what workers say of turns, and what becomes of them: outcomes, resends, fallbacks
reload.py       pure: what is different between two configurations
queries.py      questions about past turns: a QUERY's header -> an operation of the journal
dispatch.py     what clients ask for, acted on at once: turns in, attach, cancel, drain
status.py       what `loopforge status` shows, made of the records
traffic.py      what a provider's own traffic says about its health: pure counts and percentiles
supervisor.py   ordered start, one keeper task a worker, drain, reverse stop
listener.py     Unix socket: who may connect; one connection, many turns
serve.py        the daemon: one configuration, one socket, signals
journal/        turns, attempts and outcomes on disk
client.py       open_runtime(), connect(); ask, stream, post, wait, attach, cancel
stream.py       what a client reads of one turn: its frames, and the events they stand for
submission.py   a turn as a client posts it
body_error.py   keeps a nursery of ours from wrapping what the caller's block raises
blocking.py     the same socket without trio, for `status` and `cancel`
events_json.py  events -> the JSON lines of `ask --json`
turn_json.py    JSON -> a Turn, for `ask --turn`
markdown.py     tables for a page, safe from what stands in them
rehearsal/      the person's routes against simulated providers
smoke/          each provider asked for real: text, stream, tool call; the provider health report
doctor/         what keeps turns from being served, and what to do about it
demo/           python -m loopforge.runtime.demo, what scripts/demo runs
cli/            click commands, one file a family, imported lazily
errors.py       how the runtime itself refuses or ends a turn
__main__.py     python -m loopforge.runtime, the same as the command loopforge
"""
