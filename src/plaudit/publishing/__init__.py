"""The models of a run on the Hugging Face hub: one repository for each, with a model card."""
