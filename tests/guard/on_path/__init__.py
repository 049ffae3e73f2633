"""A folder for PYTHONPATH: Python imports the sitecustomize that it finds there before anything else.

sitecustomize.py  refuses every connection off the machine and every name lookup
"""
