"""What an installed LoopForge is made of, what importing it loads, and the shape that the source tree keeps.

Fast: imports, the tree, its maps, the scripts. Slow (scripts/check-slow): wheel, sdist and editable install, each in a
clean environment.
"""
