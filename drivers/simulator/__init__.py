"""The server half of each wire, on loopback: for rehearsals, tests and benchmarks. Importing it loads nothing else.

profile.py             how a simulated provider behaves: latency, rate, answers, limits, scripts; and reading profiles
faults.py              what can go wrong, by name, and what each does to an answer
wires.py               the shapes between the server and a wire: Call, Asked, Answer, Wire; and how to open one
openai_compatible.py   Chat Completions, as a server
openai_requests.py     what Chat Completions refuses, in OpenAI's words
anthropic.py           the Messages API, as a server
anthropic_requests.py  what the Messages API refuses, in Anthropic's words
bedrock.py             Converse of AWS Bedrock, as a server
bedrock_requests.py    what Converse refuses, in the words of AWS
gemini.py              generateContent, as a server
gemini_requests.py     what generateContent refuses, in Google's words
minimax_native.py      text/chatcompletion_v2, as a server
minimax_requests.py    what text/chatcompletion_v2 refuses, in MiniMax's words
dashscope_native.py    DashScope's own generation, as a server
dashscope_requests.py  what DashScope refuses, in its words
zhipu_native.py        Zhipu's chat completions, as a server
zhipu_requests.py      what Zhipu's chat completions refuse, in the platform's words
used_up.py             how vendors say that a plan's quota is used up and when it is whole again
saying.py              what the model says to one request, before a wire has formed it
wording.py             what the simulated model says: words from a seed, JSON from a schema
play.py                what the server does with one request, as a value: which bytes, when, how it ends
pacing.py              writes many streams at their own pace from one task
stats.py               what has been asked, answered and hung up
server.py              HTTP/1.1 over h11: open_simulator(), serve_simulator()
__main__.py            python -m loopforge.drivers.simulator
"""
