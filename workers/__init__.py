"""The worker's process, and the channel that both ends speak.

frame_types.py  frame types and msgpack, without what a turn is: for clients that load little
messages.py     headers, and the msgpack form of turns, deltas, replies and errors
packing.py      frozen dataclasses <-> plain values, checked on the way in
framing.py      bytes <-> frames, sans-IO
channel.py      frames over one socket: one reader, one writer task, everything waiting in one send
serve.py        the worker's loop: frames in, turns run, frames out
slots_watch.py  when a local server is asked for its slots, and what it said last
__main__.py     python -m loopforge.workers PROVIDER
"""
