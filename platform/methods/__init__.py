"""What several strategies share: teachers, memories, penalties, classifiers."""
