"""The pages that people look at: what each shows, as documents, and how that becomes HTML."""
