"""A configuration's own routes, played against simulated providers: no key is needed, nothing is spent.

figures.py    pure: what became of each turn, and the numbers made of it
workload.py   pure: which turns are posted when, from a seed
faults.py     pure: what can be done to a provider, and how a person names it
stage.py      pure: the configuration with every provider pointed at the simulator
simulator.py  the simulator's process
play.py       posts turns to a runtime as its client, keeps the books, sends a worker a signal
run.py        one rehearsal from start to end
report.py     pure: the result as text for people, as one document for programs, in a sentence or two
view.py       pure: a moment of a run as values
screen.py     draws a view: a live table on a terminal, a line a second elsewhere
layout.py     pure: durations and tables as text
quiet.py      keeps what workers say away from the screen
document.py   writes a result to a file, whole or not at all
"""
