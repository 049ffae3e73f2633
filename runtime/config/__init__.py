"""What a person wrote, checked in a short-lived child and handed over as frozen values. Importing this loads nothing.

model.py      what may stand in config.toml: every table, key, type and bound (pydantic, and only here)
resolve.py    what it means: references between tables, defaults, what is not acted on yet
carrying.py   what a route asks for that its models cannot do
base_url.py   whether a URL can be used, whose API it is, whether it is on this machine
load.py       the file on disk -> a checked configuration, or every problem in it
positions.py  on which line of a TOML text each key stands
findings.py   problems with their lines; never repeats what may be a key
edit.py       changes a route in the text of a file, and keeps its comments and forms
on_disk.py    a file put in place whole or not at all, with a backup of the old one
child.py      the same check from another process: check_in_child(), check_in_child_blocking()
__main__.py   that other process
values.py     the checked configuration: what the rest of the runtime reads
paths.py      where things are: home folder, config file, socket, key
presets.toml  what `loopforge init` writes: 19 providers, all routes to a local Ollama
"""
