"""Code that several strategies share: teachers, memories, penalties, classifiers."""
