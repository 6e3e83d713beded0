"""rollout: a challenger beside the champion, from the shadow into production, or out of it."""
