"""What was accepted survives kill -9 of anything: turns, attempts and outcomes on disk. Importing this loads nothing.

operations.py  the interface: what may be asked of a journal, and what it answers, as frozen values
memory.py      the journal of a runtime inside another program: it answers at once and keeps nothing
"""
