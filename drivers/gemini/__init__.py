"""Google's generateContent wire, on the Gemini API and on Vertex AI: a turn in, deltas out.

Wire format: https://ai.google.dev/api/generate-content and its guides on function calling, thinking, thought signatures
and structured output; what was seen in traffic decided the rest. Pure: no socket, clock, environment or log.

driver.py         the driver: settings of one provider, URL, headers; open_driver
profiles.py       what each family of models takes, as data
request.py        a turn -> the body: thinking, sampling, tools, structured output
contents.py       the conversation: roles, calls and responses, what goes back verbatim
parts.py          text, images, documents and sound as parts
schemas.py        JSON Schemas as the OpenAPI subset that older models want
draft.py          the request while it is written, its notices, and whose opaque data is whose
reader.py         response bytes -> deltas: event stream, JSON array or whole answer
splitter.py       JSON objects out of a byte stream that does not frame them
answer.py         chunks and parts -> deltas; finish reasons
calls.py          function calls, whole or in partial arguments
usage.py          token counts
failures.py       error bodies -> error classes
"""

from loopforge.drivers.gemini.driver import Gemini, open_driver

__all__ = ["Gemini", "open_driver"]
