"""The server half of each wire, on loopback: for rehearsals, tests and benchmarks. Importing it loads nothing else.

profile.py            how a simulated provider behaves: latency, rate, answers, limits, scripts; and reading profiles
faults.py             what can go wrong, by name, and what each does to an answer
wires.py              the shapes between the server and a wire: Call, Asked, Answer, Wire; and how to open one
openai_compatible.py  Chat Completions, as a server
openai_requests.py    what Chat Completions refuses, in OpenAI's words
wording.py            what the simulated model says: words from a seed, JSON from a schema
pacing.py             writes many streams at their own pace from one task
stats.py              what has been asked, answered and hung up
server.py             HTTP/1.1 over h11: open_simulator(), serve_simulator()
__main__.py           python -m loopforge.drivers.simulator
"""
