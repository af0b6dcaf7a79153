"""emobench: does a customer-service agent still do its job when the user is upset?

Nothing heavy is imported here: the command line has to answer at once.
"""

__version__ = "0.1.0"
