"""Many trials: the plan, Ray, the workers. The only subpackage that imports ray."""
