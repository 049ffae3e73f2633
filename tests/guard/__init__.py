"""What no test may do to the machine, to its user or to the next test; tests/conftest.py puts it in force.

on_path/sitecustomize.py  refuses every connection off the machine and every name lookup, in child processes too
namespace.py              a network of this process tree's own, with nothing on it but loopback
environment.py            which of the caller's variables a test sees
leaks.py                  processes and files that a test left behind
smoke.py                  the one exception: a run of smoke tests alone
"""
