"""One wire format each; no processes, no queue. Bytes meet the network in one place, transport.py.

turn.py             what a turn is: Turn, Message, parts, deltas, events, Reply, Usage
errors.py           TurnError and its classes: what went wrong, and what the caller does next
wire.py             HttpRequest, and the shapes Driver, Reader, Response, Transport, Auth
registry.py         which kinds there are, and how to open one
capabilities.py     what a provider's model can carry, told by the profiles that requests are written by
run.py              driver + transport -> deltas: sends one turn
fold.py             deltas -> the assistant's message and what a Reply needs
transport.py        the only HTTP client
auth.py             puts the key on what leaves
aws.py              a key or a signature for AWS, and its endpoint
aws_chain.py        where AWS keeps region, endpoint and credentials; SigV4
aws_probe.py        which AWS credentials win, told by a process of its own
zhipu_jwt.py        signs Zhipu's keys into short-lived tokens
sse.py              server-sent events, sans-IO
answer_body.py      a body as what it turns out to be: event stream, JSON lines or one JSON text
answer_text.py      <think> tags, marks and leading line feeds in an answer's text
tool_fragments.py   tool calls from their fragments
limits.py           what headers say: rate limits, when to come back, the request's id
error_text.py       what an error's text says, and what of it may be shown
http_failures.py    errors over HTTP: a body that may be anything, read, and the error for it, written
vendor_codes.py     error numbers of vendors that answer on several wires
draft.py            a request while it is written, and its notices
conversation.py     what every wire asks of a conversation: order, ids, arguments
schemas.py          JSON Schemas as vendors take them
grammars.py         JSON Schemas as Claude models enforce them
claude_models.py    what each generation of Claude takes, as data
json_values.py      JSON made fit for the channel
vendors.py          profiles of the OpenAI-compatible vendors, as data
slots.py            how many turns a local server says it works on at once
openai_compatible/  Chat Completions
anthropic/          the Messages API
gemini/             generateContent
bedrock/            Converse of AWS Bedrock
minimax_native/     text/chatcompletion_v2
dashscope_native/   DashScope's own text and multimodal generation
zhipu_native/       Zhipu's own chat completions
simulator/          the server half of each wire, for rehearsals, tests and benchmarks
"""
