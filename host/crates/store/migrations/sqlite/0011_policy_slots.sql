-- A policy in charge, the one before it and a candidate are roles of a slot.
ALTER TABLE seats RENAME TO policy_slots;
ALTER TABLE policy_slots RENAME COLUMN seat TO role;
