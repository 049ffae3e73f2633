"""What was accepted survives kill -9 of anything: turns, attempts and outcomes on disk. Importing this loads nothing.

operations.py  the interface: what may be asked of a journal, and what it answers, as frozen values
memory.py      the journal of a runtime inside another program: it answers at once and keeps nothing
disk.py        open_journal(): a thread that has the database, call-backs out
inbox.py       what waits for that thread, in two lanes
store.py       does operations on the database, a group in one transaction
statements.py  the SQL of the store, and rows <-> values
usage.py       questions about what turns cost: their SQL, bounded, and rows -> values
schema.py      the tables, and the way from every earlier form of them
shortage.py    a disk that takes nothing more: room kept back, outcomes that wait
retention.py   what leaves the journal: old turns, purges, free pages
files.py       one owner, no network disk, a damaged file moved aside
"""
