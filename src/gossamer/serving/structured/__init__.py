"""Keeps answers to a form: JSON Schema, a regular expression, choices or a grammar.

`Grammars` compiles what a request asks for, once for all that ask for the same, while the thread
that submits the request waits. A `GrammarMatcher` follows one sequence: the engine's thread tells
it each new token, a thread of its own computes which may come next beside the model's step, and
sampling forbids all others. The grammars themselves are llguidance's (MIT licence), which is
imported here alone.
"""
