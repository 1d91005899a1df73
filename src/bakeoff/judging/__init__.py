"""A judge model behind an address with OpenAI's interface: what is asked, how it is answered, what is kept."""
