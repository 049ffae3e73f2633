"""One provider, asked for real: a text, a stream and a tool call each, through a runtime and a worker of its own.

targets.py   which providers can be asked, with which model, and why not
cases.py     the three turns, and what counts as their answer
results.py   what came of a case, as a value
run.py       asks them: bounded time a case, one failure never stops the rest
report.py    a plan or a run as JSON, as Markdown and as an exit code
__main__.py  python -m loopforge.runtime.smoke, what scripts/provider_health_report.py runs
"""
