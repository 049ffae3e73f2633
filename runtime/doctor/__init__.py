"""What keeps turns from being served, and what to do about it: `loopforge doctor`. Importing this loads nothing.

finding.py      ok, warn or error, with the next step, and the order of next steps
run.py          all checks at once, each bounded: examine(), examine_providers()
report.py       a run as lines for a person and as a document for programs
routes.py       the configuration's problems, where turns go, who is asked therefore
keys.py         the key variables that routes need
reach.py        a provider's base URL: answered without a key and without a turn
dial.py         one request, step by step: name look-up, connection, proxy, TLS, answer
proxies.py      which proxy a request takes
ollama.py       a local Ollama: its models, how many turns it runs at once
aws.py          which AWS credentials win, and where requests go
clock.py        this machine's clock against those of the providers
permissions.py  who may read and change the files and the socket
disk.py         room for what is written
service.py      the running service, as it tells of itself
systemd.py      the systemd unit, if there is one
programs.py     runs a short program and takes what it says
"""
