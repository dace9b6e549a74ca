"""Requests for jobs that are no tuning run, and what they mean: pure, as `jobs.request` is.

compare   several methods on the same rows, seeds and steps
verify    a served result against PEFT and its merged model, token by token
export    a result as a merged model or as plain LoRA
"""
