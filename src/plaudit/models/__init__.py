"""Any Hugging Face causal language model behind one small adapter; heads; generation."""
