"""The supervisor's process, and everything that talks to it. Importing this package loads nothing else.

config/        what a person wrote, checked in a short-lived child, handed over as frozen values
router.py      pure: (turn, routes, provider states, now) -> ordered candidates, or NoRoute
taskqueue.py   pure: lanes, fairness, slots: what starts now, or when to look again
retry.py       pure: (error, attempts, what was relayed) -> resend, or give up
restarts.py    pure: restart window, back-off, give up
process.py     open_worker: one OS process, its channel, only its own key
dispatch.py    acts on the decisions: assignments out, events back
supervisor.py  ordered start, one keeper task a worker, drain, reverse stop
listener.py    Unix socket: one connection, many turns
client.py      open_runtime(), connect(); ask, stream, post, wait, cancel
cli/           click commands, one file a family, imported lazily
"""
