"""One wire format each; no processes, no queue. Bytes meet the network in one place, transport.py.

turn.py               what a turn is: Turn, Message, parts, deltas, events, Reply, Usage
errors.py             TurnError and its classes: what went wrong, and what the caller does next
wire.py               HttpRequest, and the shapes Driver, Reader, Response, Transport, Auth
registry.py           which kinds there are, and how to open one
fold.py               deltas -> the assistant's message and what a Reply needs
run.py                driver + transport -> deltas: sends one turn
sse.py                server-sent events, sans-IO
auth.py               puts the key on what leaves
vendors.py            profiles of the OpenAI-compatible vendors, as data
openai_compatible.py  Chat Completions
transport.py          the only HTTP client
simulator/            the server half of each wire, for rehearsals, tests and benchmarks
"""
