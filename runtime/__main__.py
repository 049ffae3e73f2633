"""python -m loopforge.runtime: the same as the console script `loopforge`."""

from loopforge.runtime.cli import main

if __name__ == "__main__":
    main()
