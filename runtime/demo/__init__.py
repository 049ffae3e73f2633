"""The demo: one local provider and three clouds, one slow, one stuck, one whose worker is killed. Needs nothing.

cast.py      pure: the four providers, their configuration and profiles, the phases and the loads
play.py      an idle phase, a load phase, a kill half way; keeps the books with the rehearsal's player
summary.py   pure: what came of it, as text for people and as one document for programs
ollama.py    whether an Ollama answers on its default address
__main__.py  python -m loopforge.runtime.demo, what scripts/demo runs
"""
