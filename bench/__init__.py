"""One file a question: `python -m bench.NAME [--json FILE] [--rounds N] [--quick]`. Nothing here asserts a time.

channel.py       what coalescing is worth: round trips and one-way messages between two processes
overhead.py      what the runtime adds to a turn, and the CPU of each process
relay.py         deltas a second: worker -> supervisor -> client, and provider -> client through a real worker
isolation.py     what a provider's trouble costs the planning turns of another
startup.py       how soon things are there, and how soon they are gone
queue.py         what a decision of the task queue costs
readers.py       what each driver reads: MB and events a second
journal.py       turns accepted on disk: how many a second, how long each waits
restart.py       how soon things go on after kill -9
faults.py        a soak: everything is killed and made to fail, then the books must balance
chaos.py         what goes wrong during it, drawn from a seed
report.py        options, interleaved rounds, medians, the machine, goals: what every benchmark shares
stack.py         simulator, service and workers as real processes, and a client
workload.py      seeded arrivals, read from workloads/
workloads/       the arrivals, kinds, sizes and providers of isolation.py
play.py          plays a workload against a running service
player.py        a client in a process of its own
provider.py      a provider in a process of its own
one_provider.py  the default configuration's case in virtual time: all kinds on one local provider
children.py      processes of a benchmark's own
deaths.py        kill -9 of a worker and of the supervisor, and what follows
flood.py         a stand-in worker that floods pre-encoded frames
proc.py          reads /proc of processes that others started
"""
