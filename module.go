package megaphone
