"""An OpenAI-compatible server that plays both sides of tau-bench from its ground truth.

tasks       the benchmark's tasks, read without importing it
lookup      which task a conversation is about
wording     the instruction in the first person, and how each variant sounds
user        policy of the simulated user        (pure)
judge       policy of the judge of users' emotions (pure)
script      what the assistant does in a task, mistakes included (pure)
assistant   policy of the assistant             (pure)
form        a decision in the form the agent strategy parses (pure)
faults      injected failures
protocol    OpenAI's requests, answers and errors
server      HTTP
"""
