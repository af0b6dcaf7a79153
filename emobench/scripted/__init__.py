"""An OpenAI-compatible server that plays both sides of tau-bench from its ground truth.

lookup      which environment and which task a conversation is about
messages    what policies read and write: messages, replies, the form that the agent strategy parses
user        policy of the simulated user, and how each variant sounds (pure)
judge       policy of the judge of users' emotions (pure)
script      what the assistant does in a task, mistakes included (pure)
assistant   policy of the assistant             (pure)
faults      injected failures
protocol    OpenAI's requests, answers and errors
server      HTTP, settings and metrics
command     `emobench serve-scripted`
"""
