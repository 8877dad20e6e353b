"""How seconds, memory, open files and disk grow with the number of studies: ``make scale``."""
