"""What chat has beyond a prompt and a text: messages, tools, and answers that call them."""
