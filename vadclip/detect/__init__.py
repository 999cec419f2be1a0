"""A trained model at work: videos without labels in, scores, events and a page out."""
